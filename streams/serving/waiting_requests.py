"""The requests of one slice that wait for calls: their results, their deadlines, and which records are answered."""

import asyncio
import heapq
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count

from schemas.errors import AnswerError
from streams.kafka.offset_tracker import Slice
from streams.serving.bulkhead import Bulkhead
from streams.serving.fallback import CallResult
from streams.serving.output_buffer import OutputBuffer
from streams.serving.requests import RequestContext
from streams.serving.route_table import ServedVersion

Results = tuple[Sequence[RequestContext], Sequence[CallResult]]
"""Requests, and the result of each from a call."""


@dataclass(frozen=True, slots=True, eq=False)
class Turn:
    """Requests that leave together: those whose deadline has passed, and by version those with a result."""

    overdue: Sequence[RequestContext]
    ready: dict[ServedVersion, Results]

    @property
    def count(self) -> int:
        """The number of requests."""
        return len(self.overdue) + sum(len(requests) for requests, _ in self.ready.values())

    def requests(self) -> Iterator[RequestContext]:
        return chain(self.overdue, *(requests for requests, _ in self.ready.values()))


class WaitingRequests:
    """Requests join by `add`, get results by `offer`, and leave by `take`. The bulkhead counts those that wait.

    The requests of a turn are answered when its outputs are delivered. While others wait, the slice learns then which
    records are not answered. `first_errors` has the error of the own version of each request that production is to
    answer.
    """

    def __init__(self, handled: Slice, bulkhead: Bulkhead, buffer: OutputBuffer) -> None:
        self.first_errors: dict[RequestContext, AnswerError] = {}
        self._slice = handled
        self._bulkhead = bulkhead
        self._buffer = buffer
        self._offered_bytes = 0
        # By the version that is to answer them. There are no empty sets.
        self._waiting: dict[ServedVersion, set[RequestContext]] = {}
        self._offered: list[tuple[ServedVersion, Results]] = []
        self._news: asyncio.Future[None] | None = None
        # A heap; the number makes entries comparable. The entry of a request that has left stays until its deadline.
        self._deadlines: list[tuple[float, int, RequestContext]] = []
        self._numbers = count()
        # The turns whose outputs are not delivered. None stands for the records that never waited.
        self._in_delivery: set[Turn | None] = {None}
        self._closed = False

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, version: ServedVersion, requests: Sequence[RequestContext]) -> None:
        """Let requests wait for an offer of a version."""
        self._waiting.setdefault(version, set()).update(requests)
        self._bulkhead.enter(version, requests)
        for request in requests:
            if request.deadline_unix_ms is not None:
                heapq.heappush(self._deadlines, (request.deadline_unix_ms, next(self._numbers), request))

    def offer(
        self, version: ServedVersion, requests: Sequence[RequestContext], results: Sequence[CallResult]
    ) -> None:
        """Give requests the results of a call to `version`; `take` leaves out those that do not wait any more."""
        if self._closed:
            # Its requests have left by their deadlines.
            return
        size_bytes = sum([len(result) for result in results if type(result) is bytes])
        self._offered_bytes += size_bytes
        self._buffer.offered(size_bytes)
        self._offered.append((version, (requests, results)))
        self._wake()

    async def wait(self) -> None:
        """Wait for an offer or the first deadline."""
        if self._offered or not self._waiting:
            return
        loop = asyncio.get_running_loop()
        self._news = loop.create_future()
        while self._deadlines and self._version_for(self._deadlines[0][2]) is None:
            heapq.heappop(self._deadlines)
        if not self._deadlines:
            await self._news
            return
        timer = loop.call_later(max(0.0, self._deadlines[0][0] / 1000 - time.time()), self._wake)
        try:
            await self._news
        finally:
            timer.cancel()

    def take(self, now_unix_ms: float) -> Turn:
        """Remove the requests whose deadline has passed, and those that have a result."""
        overdue: list[RequestContext] = []
        while self._deadlines and self._deadlines[0][0] <= now_unix_ms:
            request = heapq.heappop(self._deadlines)[2]
            waits_for = self._version_for(request)
            if waits_for is not None:
                self._leave(waits_for, [request])
                overdue.append(request)
        offered, self._offered = self._offered, []
        self._buffer.offered(-self._offered_bytes)
        self._offered_bytes = 0
        parts: dict[ServedVersion, list[Results]] = {}
        for version, results in offered:
            waiting = self._still_waiting(version, results)
            if waiting[0]:
                self._leave(version, waiting[0])
                parts.setdefault(version, []).append(waiting)
        turn = Turn(overdue, {version: _joined(of_version) for version, of_version in parts.items()})
        self._in_delivery.add(turn)
        return turn

    def delivered(self, turn: Turn | None) -> None:
        """All outputs of a turn are delivered; None: those of the records that never waited."""
        self._in_delivery.discard(turn)
        if self._waiting and not self._closed and None not in self._in_delivery:
            in_delivery = sum(turn.count for turn in self._in_delivery if turn is not None)
            count = in_delivery + sum(map(len, self._waiting.values()))
            self._slice.answered_but(self._unanswered, count)

    def close(self) -> None:
        """The slice's handling has ended: deliveries change nothing any more, and what waits stays unanswered."""
        self._closed = True
        self._buffer.offered(-self._offered_bytes)
        self._offered_bytes = 0
        for version, waiting in self._waiting.items():
            self._bulkhead.leave(version, waiting)

    def _unanswered(self) -> Iterator[int]:
        in_delivery = (turn.requests() for turn in self._in_delivery if turn is not None)
        return (request.record.offset for request in chain(*self._waiting.values(), *in_delivery))

    def _version_for(self, request: RequestContext) -> ServedVersion | None:
        """The version that a request waits for; None when it has left."""
        return next((version for version, waiting in self._waiting.items() if request in waiting), None)

    def _leave(self, version: ServedVersion, requests: Sequence[RequestContext]) -> None:
        waiting = self._waiting[version]
        waiting.difference_update(requests)
        if not waiting:
            del self._waiting[version]
        self._bulkhead.leave(version, requests)

    def _still_waiting(self, version: ServedVersion, results: Results) -> Results:
        waiting = self._waiting.get(version, set())
        if waiting.issuperset(results[0]):
            return results
        pairs = [pair for pair in zip(*results, strict=True) if pair[0] in waiting]
        return [request for request, _ in pairs], [result for _, result in pairs]

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)


def _joined(parts: Sequence[Results]) -> Results:
    if len(parts) == 1:
        return parts[0]
    return [request for part in parts for request in part[0]], [
        result for part in parts for result in part[1]
    ]
