"""Request coalescing (single-flight): equal inputs of one version are inferred once, for all requests in flight.

A request joins the call that already infers its input, whichever slice started it. The other inputs of a
version and slice share one new call.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

import structlog

from schemas.errors import InternalError
from schemas.events import JsonObject
from streams.serving.fallback import CallResult
from streams.serving.requests import INTERNAL_FAULT, RequestContext
from streams.serving.route_table import ServedVersion

log = structlog.get_logger()

# Above `slice_max_records` by default (2,000), so that one call takes a whole slice.
MAX_CALL_INPUTS = 2048


class CoalescedCall:
    """One call of a version for distinct inputs, shared by all requests that hold one of them.

    `is_open` until the call starts: until then it takes new inputs, and its deadline can move.
    `deadline_unix_seconds` is the latest deadline of the requests that it was started for, infinite when one
    of them has none. `sizes_bytes` has the size of the record of each input. `done` is set when `results` has an entry
    for each digest.
    """

    __slots__ = (
        "deadline_unix_seconds",
        "digests",
        "done",
        "inputs",
        "is_open",
        "results",
        "sizes_bytes",
        "version",
    )

    def __init__(self, version: ServedVersion) -> None:
        self.version = version
        self.digests: list[bytes] = []
        self.inputs: list[JsonObject] = []
        self.sizes_bytes: list[int] = []
        self.deadline_unix_seconds = 0.0
        self.is_open = True
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.results: dict[bytes, CallResult] = {}

    def joins(self, request: RequestContext) -> bool:
        """Let a request share the call; False when the call has started and may end before its deadline."""
        own_unix_ms = request.deadline_unix_ms
        own_unix_seconds = math.inf if own_unix_ms is None else own_unix_ms / 1000
        if self.is_open:
            self.deadline_unix_seconds = max(self.deadline_unix_seconds, own_unix_seconds)
        return own_unix_seconds <= self.deadline_unix_seconds


RunCall = Callable[[CoalescedCall], Awaitable[None]]


class Coalescer:
    """Starts the calls and keeps those in flight.

    `infer` fills the results of a call; digests without a result then get INTERNAL. After it, `store` puts the
    results into the cache; until it returns, requests with equal inputs join the call.
    """

    def __init__(self, infer: RunCall, store: RunCall) -> None:
        self._infer = infer
        self._store = store
        # By the cache prefix of a version, then by the digest of an input.
        self._in_flight: dict[bytes, dict[bytes, CoalescedCall]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._calls_done = 0

    @property
    def calls_done(self) -> int:
        """How many calls have ended, with predictions or errors."""
        return self._calls_done

    def start_calls(
        self, requests: Mapping[ServedVersion, Sequence[RequestContext]]
    ) -> dict[CoalescedCall, list[RequestContext]]:
        """Join calls in flight, start calls for all other inputs; returns each call with its requests."""
        waiting: dict[CoalescedCall, list[RequestContext]] = {}
        for version, of_version in requests.items():
            in_flight = self._in_flight.setdefault(version.cache_prefix, {})
            call = CoalescedCall(version)
            started = [call]
            for request in of_version:
                digest = request.digest
                joined = in_flight.get(digest)
                if joined is None or not joined.joins(request):
                    if len(call.digests) == MAX_CALL_INPUTS:
                        call = CoalescedCall(version)
                        started.append(call)
                    joined = in_flight[digest] = call
                    call.joins(request)
                    call.digests.append(digest)
                    call.inputs.append(request.input)
                    call.sizes_bytes.append(len(request.record.value or b""))
                if joined in waiting:
                    waiting[joined].append(request)
                else:
                    waiting[joined] = [request]
            for call in started:
                call.is_open = False
                if call.digests:
                    task = asyncio.create_task(self._run(call))
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)
        return waiting

    async def close(self) -> None:
        """Cancel the calls in flight; no slice waits for them any more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(self, call: CoalescedCall) -> None:
        version = call.version
        try:
            await self._infer(call)
        except Exception:  # an internal fault; the requests still need a response
            log.exception("internal fault", model_name=version.model_name, version=version.spec.version)
        finally:
            if len(call.results) < len(call.digests):
                fault: CallResult = InternalError(INTERNAL_FAULT)
                call.results = dict.fromkeys(call.digests, fault) | call.results
            call.done.set_result(None)
            self._calls_done += 1
            await self._store(call)
            self._forget(call)

    def _forget(self, call: CoalescedCall) -> None:
        prefix = call.version.cache_prefix
        in_flight = self._in_flight.get(prefix, {})
        for digest in call.digests:
            # A later call may have taken the entry, for a request with a later deadline, and may have ended.
            if in_flight.get(digest) is call:
                del in_flight[digest]
                if not in_flight:
                    del self._in_flight[prefix]


async def await_call(call: CoalescedCall, requests: Sequence[RequestContext]) -> None:
    """Wait until the call is done, or the first deadline of these requests has passed."""
    deadlines_unix_ms = [
        request.deadline_unix_ms for request in requests if request.deadline_unix_ms is not None
    ]
    timeout_seconds = max(0.0, min(deadlines_unix_ms) / 1000 - time.time()) if deadlines_unix_ms else None
    await asyncio.wait([call.done], timeout=timeout_seconds)
