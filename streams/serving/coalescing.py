"""Request coalescing (single-flight): equal inputs of one version are inferred once, for all requests in flight.

A request joins the call that already infers its input, whichever slice started it. The other inputs of a
version and slice share one new call. Results are offered to the requests as batches end, not when the whole call
has ended.
"""

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from functools import partial

import structlog

from schemas.errors import InternalError
from schemas.events import JsonObject
from streams.serving.fallback import CallResult
from streams.serving.requests import INTERNAL_FAULT, RequestContext
from streams.serving.route_table import ServedVersion
from streams.serving.waiting_requests import WaitingRequests

log = structlog.get_logger()

# Above `slice_max_records` by default (2,000), so that one call takes a whole slice.
MAX_CALL_INPUTS = 2048
# The results of short calls go to the cache together: each write has a cost of its own.
STORE_RESULTS = 512
STORE_SECONDS = 0.05


class CoalescedCall:
    """One call of a version for distinct inputs, shared by all requests that hold one of them.

    `is_open` until the call starts: until then it takes new inputs, and its deadline can move.
    `deadline_unix_seconds` is the latest deadline of the requests that it was started for, infinite when one
    of them has none. `inputs` are those of `digests`, and `sizes_bytes` has the size of the record of each; the call drops
    what has a result.
    """

    __slots__ = (
        "_is_abandoned",
        "_joined",
        "_requests",
        "_results",
        "_waiting",
        "deadline_unix_seconds",
        "digests",
        "inputs",
        "is_open",
        "sizes_bytes",
        "version",
    )

    def __init__(self, version: ServedVersion, waiting: WaitingRequests) -> None:
        self.version = version
        self.digests: list[bytes] = []
        self.inputs: list[JsonObject] = []
        self.sizes_bytes: list[int] = []
        self.deadline_unix_seconds = 0.0
        self.is_open = True
        self._waiting = waiting
        self._is_abandoned = False
        # The request that each input came with; None once it has its result.
        self._requests: list[RequestContext | None] = []
        # By digest, the requests that joined later.
        self._joined: dict[bytes, list[tuple[WaitingRequests, RequestContext]]] = {}
        # By digest, the results that the cache may not have yet.
        self._results: dict[bytes, CallResult] = {}

    def joins(self, request: RequestContext) -> bool:
        """Let a request share the call; False when the call has started and may end before its deadline."""
        own_unix_ms = request.deadline_unix_ms
        own_unix_seconds = math.inf if own_unix_ms is None else own_unix_ms / 1000
        if self.is_open:
            self.deadline_unix_seconds = max(self.deadline_unix_seconds, own_unix_seconds)
        return own_unix_seconds <= self.deadline_unix_seconds

    def begin_with(self, request: RequestContext) -> None:
        """Take a request with a new input."""
        self.joins(request)
        self.digests.append(request.digest)
        self.inputs.append(request.input)
        self.sizes_bytes.append(len(request.record.value or b""))
        self._requests.append(request)

    def add(self, waiting: WaitingRequests, request: RequestContext) -> None:
        """Take a request with an input that the call has."""
        result = self._results.get(request.digest)
        if result is None:
            self._joined.setdefault(request.digest, []).append((waiting, request))
        else:
            waiting.offer(self.version, [request], [result])

    def abandon(self, waiting: WaitingRequests) -> bool:
        """Leave out the requests of a slice; True when nobody waits for the call any more."""
        if waiting is self._waiting:
            self._is_abandoned = True
        for digest, joined in list(self._joined.items()):
            others = [one for one in joined if one[0] is not waiting]
            if others:
                self._joined[digest] = others
            else:
                del self._joined[digest]
        return self._is_abandoned and not self._joined

    def settle(self, start: int, results: Sequence[CallResult]) -> Sequence[bytes]:
        """Offer the results of the inputs from `start` to their requests; returns the digests."""
        stop = start + len(results)
        digests = self.digests[start:stop]
        requests = [request for request in self._requests[start:stop] if request is not None]
        self._requests[start:stop] = [None] * len(results)
        self._results.update(zip(digests, results, strict=True))
        self._waiting.offer(self.version, requests, results)
        if self._joined:
            for digest, result in zip(digests, results, strict=True):
                for waiting, request in self._joined.pop(digest, ()):
                    waiting.offer(self.version, [request], [result])
        return digests

    def settle_rest(self, result: CallResult) -> Sequence[bytes]:
        """Offer the same result to every request that has none; returns their digests."""
        rest = [at for at, request in enumerate(self._requests) if request is not None]
        return [digest for at in rest for digest in self.settle(at, [result])]

    def forget(self, digests: Sequence[bytes]) -> None:
        """Drop results that no request will ask for."""
        for digest in digests:
            self._results.pop(digest, None)


Infer = Callable[[CoalescedCall], AsyncGenerator[tuple[int, Sequence[CallResult]], None]]
Store = Callable[[ServedVersion, Sequence[bytes], Sequence[CallResult]], Awaitable[None]]


class Coalescer:
    """Starts the calls and keeps those in flight.

    `infer` has the results of a call, of consecutive inputs each time with the index of the first; inputs without
    a result at its end get INTERNAL. `store` puts results into the cache by their digests; until it returns, requests
    with equal inputs join the call.
    """

    def __init__(self, infer: Infer, store: Store) -> None:
        self._infer = infer
        self._store = store
        # By the cache prefix of a version, then by the digest of an input.
        self._in_flight: dict[bytes, dict[bytes, CoalescedCall]] = {}
        self._tasks: dict[CoalescedCall, asyncio.Task[None]] = {}

    def start_calls(
        self, requests: Mapping[ServedVersion, Sequence[RequestContext]], waiting: WaitingRequests
    ) -> None:
        """Join calls in flight, start calls for all other inputs; `waiting` gets the results."""
        for version, of_version in requests.items():
            if not of_version:
                continue
            waiting.add(version, of_version)
            in_flight = self._in_flight.setdefault(version.cache_prefix, {})
            call = CoalescedCall(version, waiting)
            started = [call]
            for request in of_version:
                joined = in_flight.get(request.digest)
                # A newer table may have another object for the version: its requests wait under that one.
                if joined is not None and joined.version is version and joined.joins(request):
                    joined.add(waiting, request)
                    continue
                if len(call.digests) == MAX_CALL_INPUTS:
                    call = CoalescedCall(version, waiting)
                    started.append(call)
                call.begin_with(request)
                in_flight[request.digest] = call
            for call in started:
                call.is_open = False
                if call.digests:
                    task = self._tasks[call] = asyncio.create_task(self._run(call))
                    task.add_done_callback(partial(self._ended, call))

    def abandon(self, waiting: WaitingRequests) -> None:
        """Offer nothing more to the requests of a slice, and cancel the calls that no other request waits for."""
        for call, task in self._tasks.items():
            if call.abandon(waiting):
                # Before the task ends: no request may join it now.
                self._forget(call, call.digests)
                task.cancel()

    async def close(self) -> None:
        """Cancel the calls in flight; no slice waits for them any more."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, call: CoalescedCall, _: asyncio.Task[None]) -> None:
        del self._tasks[call]

    async def _run(self, call: CoalescedCall) -> None:
        version = call.version
        unstored: list[bytes] = []
        results: list[CallResult] = []
        stored_at = time.monotonic()
        try:
            async with aclosing(self._infer(call)) as parts:
                async for start, part in parts:
                    unstored += call.settle(start, part)
                    results += part
                    now = time.monotonic()
                    if len(unstored) >= STORE_RESULTS or now - stored_at >= STORE_SECONDS:
                        await self._store(version, unstored, results)
                        self._forget(call, unstored)
                        unstored, results, stored_at = [], [], now
            await self._store(version, unstored, results)
        except Exception:  # an internal fault; the requests still need a response
            log.exception("internal fault", model_name=version.model_name, version=version.spec.version)
        finally:
            self._forget(call, unstored)
            self._forget(call, call.settle_rest(InternalError(INTERNAL_FAULT)))

    def _forget(self, call: CoalescedCall, digests: Sequence[bytes]) -> None:
        prefix = call.version.cache_prefix
        in_flight = self._in_flight.get(prefix, {})
        call.forget(digests)
        for digest in digests:
            # A later call may have taken the entry, for a request with a later deadline, and may have ended.
            if in_flight.get(digest) is call:
                del in_flight[digest]
                if not in_flight:
                    del self._in_flight[prefix]
