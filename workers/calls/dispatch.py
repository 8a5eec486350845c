"""The dispatcher of one version: batches inputs, limits the calls in flight, and pauses after repeated failures.

`batching` forms batches, `limits` learns how many examples and bytes they may have and how many calls may be in
flight, `breaker` stops calls after failures, and `isolate` finds bad examples. This module runs the calls.

A timeout of a batch first means that it had too many examples: batches become smaller, and its inputs are
tried again in much smaller calls, at last each in a call for itself. Only a timeout of a call with one example counts for the breaker. A batch
that is too large for the backend is tried again in smaller ones.
"""

import asyncio
import math
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import structlog

from schemas.errors import (
    AnswerAndDeadLetterError,
    BackendBrokenError,
    BackendUnavailableError,
    DeadlineExceededError,
    NonFiniteResultError,
)
from schemas.events import JsonObject
from workers.backends.port import Backend
from workers.calls import breaker
from workers.calls.batching import BatchQueue, Part, Settled
from workers.calls.breaker import BreakerConfig, BreakerEvent, Phase
from workers.calls.callers import (
    Outcome,
    WaitingCaller,
    is_timeout,
    is_too_large,
    may_fit_smaller_call,
    raise_in_callers,
    settle,
    settle_in_time,
    settle_with,
    trace_contexts,
)
from workers.calls.isolate import infer_each
from workers.calls.limits import Limits

log = structlog.get_logger()

# When a server hangs, the calls in flight time out together, which is about this many; then all waiting callers fail.
BREAKER = BreakerConfig(failures=3, open_seconds=2.0)
# A call that a caller's deadline cut short counts as a server fault when it took this many base round trips.
SLOW_CALL_FACTOR = 10.0

# Errors that the server causes, not an input.
SERVER_FAULTS = BackendUnavailableError, BackendBrokenError
UNLOADED = "the model was unloaded"
_NO_CALL_IN_TIME = "the deadline passed before a call"


class Meter(Protocol):
    """Counts what happens between a version and its backend."""

    def called(self, batch_size: int, seconds: float) -> None:
        """Called after each batch, with the duration of its calls, whatever their outcome."""
        ...

    def breaker_opened(self) -> None:
        """Called when the breaker opens."""
        ...


class CallTracer(Protocol):
    """Traces the calls of one version. The dispatcher passes a caller's trace context through unread."""

    def current(self) -> Any:
        """The trace context of the running task."""
        ...

    def call(
        self, callers: Sequence[Any], batch_size: int
    ) -> AbstractContextManager[Callable[[Sequence[Outcome]], None]]:
        """A span around one batch; `callers` are trace contexts. Its value is called with the outcomes."""
        ...


class Dispatcher:
    """Dispatches many callers' inputs to one backend.

    `name` is for the log. A call has at most `max_batch` examples and `timeout_seconds`; at most
    `max_calls` calls are in flight. Below these limits the dispatcher learns what serves best.
    """

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
        self._timeout_seconds = timeout_seconds
        self._meter = meter
        self._tracer = tracer
        self._queue = BatchQueue()
        self._limits = Limits(max_batch=max_batch, max_calls=max_calls, timeout_seconds=timeout_seconds)
        self._breaker = breaker.CLOSED
        self._last_failure = ""
        # The end of the last call with predictions.
        self._answered_at = -math.inf
        self._calls: set[asyncio.Task[None]] = set()
        self._send_is_due = False
        self._has_lone_call = False
        self._closed = False

    def infer(
        self,
        inputs: Sequence[JsonObject],
        *,
        sizes_bytes: Sequence[int] = (),
        deadline_loop_seconds: float = math.inf,
    ) -> AsyncGenerator[Settled, None]:
        """A prediction, or the error in its place, for each input, as soon as its batch has ended.

        `sizes_bytes` has the size of each input in JSON; without it all are taken for equally small.
        No call begins for this caller after `deadline_loop_seconds`, of the event loop's clock. Cancelling the
        caller, or closing the iterator, does not affect the other inputs of its batch.
        """
        caller = WaitingCaller(inputs, deadline_loop_seconds, sizes_bytes or [1] * len(inputs))
        if self._tracer is not None:
            caller.trace_context = self._tracer.current()
        self._queue.add(caller)
        if not self._send_is_due:
            # Callers of the same loop iteration share the batch.
            self._send_is_due = True
            asyncio.get_running_loop().call_soon(self._send)
        return caller.parts()

    def least_wait_seconds(self) -> float:
        """The least time to an outcome of an input that is given now; 0 where it is not known."""
        return self._limits.least_wait_seconds(self._queue.examples) if self._queue else 0.0

    async def close(self) -> None:
        """Cancel the calls, fail the waiting callers, and close the backend. Idempotent."""
        self._closed = True
        settle_with(self._queue.take_all(), BackendUnavailableError(UNLOADED))
        for call in self._calls:
            call.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)
        await self._backend.close()

    def _send(self) -> None:
        """Start every call that the breaker and the concurrency limit allow now."""
        self._send_is_due = False
        limits = self._limits
        now = asyncio.get_running_loop().time()
        settle_with(self._queue.drop_late(now), DeadlineExceededError(_NO_CALL_IN_TIME))
        while self._queue:
            if breaker.refuses(self._breaker, now):
                self._fail_all()
                return
            if len(self._calls) >= limits.calls or (self._calls and self._lone_call_is_due()):
                return
            self._breaker = breaker.advance(self._breaker, BreakerEvent.CALL, now, BREAKER)
            # A probe has one example.
            probing = self._breaker.phase is Phase.HALF_OPEN
            batch = self._queue.take(1 if probing else limits.examples, limits.size_bytes)
            if not batch:
                # All waiting callers were cancelled.
                return
            is_full = sum(part.stop - part.start for part in batch) == limits.examples
            self._has_lone_call = is_full and limits.is_probing and not self._calls
            call = asyncio.create_task(self._call(batch))
            self._calls.add(call)
            call.add_done_callback(self._ended)

    def _lone_call_is_due(self) -> bool:
        """True while a full batch is alone at the server, or waits to be."""
        if not self._limits.is_probing:
            return False
        return self._has_lone_call or self._queue.holds(self._limits.examples)

    def _ended(self, call: asyncio.Task[None]) -> None:
        self._calls.discard(call)
        if not call.cancelled():
            self._send()

    def _fail_all(self) -> None:
        error = BackendUnavailableError(f"the model server is not called for now: {self._last_failure}")
        settle_with(self._queue.take_all(), error)

    async def _call(self, batch: list[Part]) -> None:
        loop = asyncio.get_running_loop()
        inputs = batch[0].inputs if len(batch) == 1 else [value for part in batch for value in part.inputs]
        started = loop.time()
        deadline = max(part.caller.deadline_loop_seconds for part in batch)
        timeout_seconds = min(self._timeout_seconds, deadline - started)
        if timeout_seconds <= 0:
            settle_with(batch, DeadlineExceededError(_NO_CALL_IN_TIME))
            return
        in_flight = len(self._calls)
        try:
            if self._tracer is None:
                outcomes = await infer_each(self._backend, inputs, timeout_seconds=timeout_seconds)
            else:
                with self._tracer.call(trace_contexts(batch), len(inputs)) as note:
                    outcomes = await infer_each(self._backend, inputs, timeout_seconds=timeout_seconds)
                    note(outcomes)
        except asyncio.CancelledError:
            settle_with(batch, BackendUnavailableError(UNLOADED))
            raise
        except Exception as error:  # noqa: BLE001  # a programming error, raised in every caller
            raise_in_callers(batch, error)
            return
        seconds = loop.time() - started
        errors = [outcome for outcome in outcomes if isinstance(outcome, AnswerAndDeadLetterError)]
        in_flight = max(in_flight, len(self._calls))
        if not self._closed and any(map(may_fit_smaller_call, errors)):
            self._queue.put_back(settle_in_time(batch, outcomes, loop.time(), is_alone=in_flight == 1))
        else:
            settle(batch, outcomes)
        self._meter.called(len(inputs), seconds)
        cut_short = timeout_seconds < self._timeout_seconds and seconds >= timeout_seconds
        # A result that is no JSON is an answer.
        if not all(isinstance(error, NonFiniteResultError) for error in errors):
            if any(map(is_too_large, errors)):
                size_bytes = sum(part.size_bytes for part in batch)
                self._limits.too_large(len(outcomes), size_bytes, loop.time())
            self._learn_from_errors(
                len(outcomes), errors, started, seconds, in_flight=in_flight, cut_short=cut_short
            )
        else:
            self._limits.succeeded(len(outcomes), seconds, in_flight=in_flight, now=loop.time())
            self._answered_at = loop.time()
            self._succeeded()

    def _learn_from_errors(
        self,
        count: int,
        errors: Sequence[AnswerAndDeadLetterError],
        started: float,
        seconds: float,
        *,
        in_flight: int,
        cut_short: bool,
    ) -> None:
        """Update both limits and the breaker after a call with `count` examples.

        `cut_short`: a caller's deadline ended the call.
        """
        base_rtt = self._limits.base_rtt(count)
        too_early = cut_short and (base_rtt is None or seconds < SLOW_CALL_FACTOR * base_rtt)
        if count > 1 and any(map(is_timeout, errors)):
            if not too_early:
                self._limits.timed_out(count, in_flight=in_flight, started=started, now=started + seconds)
            return
        serious = next((error for error in errors if isinstance(error, SERVER_FAULTS)), None)
        if len(errors) < count or serious is None:
            # A server that refuses an input for its content is healthy.
            self._succeeded()
            return
        if too_early:
            return
        if isinstance(serious, BackendUnavailableError):
            self._limits.unavailable(started=started, now=started + seconds)
        if self._answered_at >= started:
            # The server answered other calls meanwhile: this one failed for its inputs, or had to wait.
            return
        self._failed(str(serious))

    def _succeeded(self) -> None:
        before = self._breaker.phase
        self._advance(BreakerEvent.SUCCESS)
        if before is Phase.HALF_OPEN:
            log.info("model server called again", version=self._name)

    def _failed(self, reason: str) -> None:
        before = self._breaker.phase
        self._last_failure = reason
        self._advance(BreakerEvent.FAILURE)
        if self._breaker.phase is Phase.OPEN and before is Phase.CLOSED:
            log.warning("model server not called for a while", version=self._name, reason=reason)
            self._meter.breaker_opened()

    def _advance(self, event: BreakerEvent) -> None:
        self._breaker = breaker.advance(self._breaker, event, asyncio.get_running_loop().time(), BREAKER)
