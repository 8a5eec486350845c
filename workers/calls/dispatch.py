"""Calls to one version's backend: batched, as many at once as serve best, and spared while it is down.

The rules are pure: `batching` makes the batches, `concurrency` says how many calls go at once,
`breaker` when none goes, `isolate` lets a bad example fail alone. This is the shell around them.
"""

import asyncio
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import structlog

from schemas.errors import (
    AnswerAndDeadLetterError,
    AnswerError,
    BackendBrokenError,
    BackendUnavailableError,
    DeadlineExceededError,
)
from schemas.events import JsonObject
from workers.backends.port import Backend
from workers.calls import breaker, concurrency
from workers.calls.batching import BatchQueue, Caller, Part
from workers.calls.breaker import BreakerConfig, Phase
from workers.calls.isolate import infer_each

log = structlog.get_logger()

# As few as fail together when a server begins to hang: what waits for it by then is settled at once.
BREAKER = BreakerConfig(failures=3, open_seconds=2.0)
# A call that a deadline cut short speaks against the server when it took this many times the usual.
SLOW_CALL_FACTOR = 10.0

SERVER_FAULTS = BackendUnavailableError, BackendBrokenError
UNLOADED = "the model was unloaded"

Outcome = Any | AnswerError
"""A prediction, or what became of it instead."""


class Meter(Protocol):
    """Told what happens between a version and its backend."""

    def called(self, batch_size: int, seconds: float) -> None:
        """A batch came back, with predictions or without."""
        ...

    def breaker_opened(self) -> None:
        """From now on nobody calls, for a while."""
        ...


class CallTracer(Protocol):
    """Told of the calls for one version, where requests are traced; what a caller belongs to is its own affair."""

    def current(self) -> Any:
        """What the running task's requests belong to."""
        ...

    def call(
        self, callers: Sequence[Any], batch_size: int
    ) -> AbstractContextManager[Callable[[Sequence[Outcome]], None]]:
        """For one call and what its callers belong to; what it gives is told what became of the inputs."""
        ...


class _Waiting(Caller):
    """A caller that waits in this process; it belongs to something where requests are traced."""

    __slots__ = ("belongs_to", "settled")

    belongs_to: Any

    def __init__(self, inputs: Sequence[JsonObject], deadline_loop_seconds: float) -> None:
        super().__init__(inputs, deadline_loop_seconds)
        self.settled: asyncio.Future[list[Outcome]] = asyncio.get_running_loop().create_future()


class Dispatcher:
    """What stands between many callers and one backend; `name` is for the log."""

    def __init__(
        self,
        backend: Backend,
        *,
        name: str,
        max_batch: int,
        max_calls: int,
        timeout_seconds: float,
        meter: Meter,
        tracer: CallTracer | None = None,
    ) -> None:
        self._backend = backend
        self._name = name
        self._max_batch = max_batch
        self._max_calls = max_calls
        self._timeout_seconds = timeout_seconds
        self._meter = meter
        self._tracer = tracer
        self._queue = BatchQueue()
        self._concurrency = concurrency.limited(concurrency.Concurrency(), max_calls)
        self._breaker = breaker.CLOSED
        self._last_failure = ""
        self._calls: set[asyncio.Task[None]] = set()
        self._send_is_due = False

    async def infer(
        self, inputs: Sequence[JsonObject], *, deadline_loop_seconds: float = math.inf
    ) -> list[Outcome]:
        """What becomes of each input, in order: a prediction, or the error in its place.

        `deadline_loop_seconds`, in the loop's time, is when the caller hears no more: nothing is called for it from
        then on. To cancel it harms nobody whose inputs are in the same batch.
        """
        if not inputs:
            return []
        caller = _Waiting(inputs, deadline_loop_seconds)
        if self._tracer is not None:
            caller.belongs_to = self._tracer.current()
        self._queue.add(caller)
        if not self._send_is_due:
            # Whoever else comes in the same turn of the loop shares the batch.
            self._send_is_due = True
            asyncio.get_running_loop().call_soon(self._send)
        try:
            return await caller.settled
        finally:
            caller.gone = True

    async def close(self) -> None:
        """End the calls, fail those who wait, and close the backend. Idempotent."""
        _settle_with(self._queue.take_all(), BackendUnavailableError(UNLOADED))
        for call in self._calls:
            call.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)
        await self._backend.close()

    def _send(self) -> None:
        """Make every call that may be made now."""
        self._send_is_due = False
        now = asyncio.get_running_loop().time()
        _settle_with(self._queue.drop_late(now), DeadlineExceededError("the deadline passed before a call"))
        while self._queue:
            if breaker.refuses(self._breaker, now):
                self._fail_all()
                return
            if len(self._calls) >= self._concurrency.calls:
                return
            self._breaker, _ = breaker.admit(self._breaker, now, BREAKER)
            # Whether the server is back is tried out on one example.
            probing = self._breaker.phase is Phase.HALF_OPEN
            batch = self._queue.take(1 if probing else self._max_batch)
            if not batch:
                # Whoever waited has gone.
                return
            call = asyncio.create_task(self._call(batch))
            self._calls.add(call)
            call.add_done_callback(self._ended)

    def _ended(self, call: asyncio.Task[None]) -> None:
        self._calls.discard(call)
        if not call.cancelled():
            self._send()

    def _fail_all(self) -> None:
        error = BackendUnavailableError(f"the model server is not called for now: {self._last_failure}")
        _settle_with(self._queue.take_all(), error)

    async def _call(self, batch: list[Part]) -> None:
        loop = asyncio.get_running_loop()
        inputs = batch[0].inputs if len(batch) == 1 else [value for part in batch for value in part.inputs]
        started = loop.time()
        limit = min(self._timeout_seconds, max(part.caller.deadline_loop_seconds for part in batch) - started)
        in_flight = len(self._calls)
        try:
            if self._tracer is None:
                outcomes = await infer_each(self._backend, inputs, timeout_seconds=limit)
            else:
                with self._tracer.call(_callers_of(batch), len(inputs)) as note:
                    outcomes = await infer_each(self._backend, inputs, timeout_seconds=limit)
                    note(outcomes)
        except asyncio.CancelledError:
            _settle_with(batch, BackendUnavailableError(UNLOADED))
            raise
        except Exception as error:  # noqa: BLE001  # a fault of ours, which the callers must hear of
            _break(batch, error)
            return
        _settle(batch, outcomes)
        seconds = loop.time() - started
        self._meter.called(len(inputs), seconds)
        cut_short = limit < self._timeout_seconds and seconds >= limit
        self._learn(outcomes, seconds, max(in_flight, len(self._calls)), cut_short=cut_short)

    def _learn(self, outcomes: Sequence[Outcome], seconds: float, in_flight: int, *, cut_short: bool) -> None:
        errors = [outcome for outcome in outcomes if isinstance(outcome, AnswerAndDeadLetterError)]
        if not errors:
            self._concurrency = concurrency.answered(
                self._concurrency,
                batch_size=len(outcomes),
                seconds=seconds,
                in_flight=in_flight,
                max_calls=self._max_calls,
                single=self._max_batch == 1,
            )
        serious = next((error for error in errors if isinstance(error, SERVER_FAULTS)), None)
        if len(errors) < len(outcomes) or serious is None:
            # What was refused for what was in it was refused by a server that is well.
            self._succeeded()
            return
        usual = self._concurrency.usual(len(outcomes))
        if cut_short and (usual is None or seconds < SLOW_CALL_FACTOR * usual):
            return
        if isinstance(serious, BackendUnavailableError):
            self._concurrency = concurrency.failed(self._concurrency)
        self._failed(str(serious))

    def _succeeded(self) -> None:
        before = self._breaker.phase
        self._breaker = breaker.succeeded(self._breaker)
        if before is Phase.HALF_OPEN:
            log.info("model server called again", version=self._name)

    def _failed(self, reason: str) -> None:
        before = self._breaker.phase
        self._last_failure = reason
        self._breaker = breaker.failed(self._breaker, asyncio.get_running_loop().time(), BREAKER)
        if self._breaker.phase is Phase.OPEN and before is Phase.CLOSED:
            log.warning("model server not called for a while", version=self._name, reason=reason)
            self._meter.breaker_opened()


def _callers_of(batch: Sequence[Part]) -> list[Any]:
    return [part.caller.belongs_to for part in batch if isinstance(part.caller, _Waiting)]


def _settle(batch: Sequence[Part], outcomes: Sequence[Outcome]) -> None:
    start = 0
    for part in batch:
        stop = start + part.stop - part.start
        caller = part.caller
        assert isinstance(caller, _Waiting)
        if caller.settle(part.start, outcomes[start:stop]) and not caller.settled.done():
            caller.settled.set_result(caller.outcomes)
        start = stop


def _settle_with(batch: Sequence[Part], error: AnswerError) -> None:
    _settle(batch, [error] * sum(part.stop - part.start for part in batch))


def _break(batch: Sequence[Part], error: Exception) -> None:
    for part in batch:
        caller = part.caller
        assert isinstance(caller, _Waiting)
        # What of it still waits is for nobody.
        caller.gone = True
        if not caller.settled.done():
            caller.settled.set_exception(error)
