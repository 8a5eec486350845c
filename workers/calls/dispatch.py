"""The dispatcher of one version: batches inputs, limits the calls in flight, and pauses after repeated failures.

`batching` forms batches, `limits` learns how many examples and bytes they may have and how many calls may be in
flight, `health` stops calls after failures, and `isolate` finds bad examples. This module runs the calls.

A timeout of a batch first means that it had too many examples: batches become smaller, and its inputs are
tried again in much smaller calls, at last each in a call for itself. Only a timeout of a call with one example counts for the breaker. A batch
that is too large for the backend is tried again in smaller ones.
"""

import asyncio
import math
from collections.abc import AsyncGenerator, Mapping, Sequence
from functools import partial

from schemas.errors import (
    AnswerAndDeadLetterError,
    BackendFailedError,
    BackendUnavailableError,
    DeadlineExceededError,
    NonFiniteResultError,
)
from schemas.events import JsonObject
from workers.backends.port import Backend
from workers.calls.batching import BatchQueue, Part, Settled
from workers.calls.callers import (
    Outcome,
    WaitingCaller,
    errors_in,
    is_timeout,
    is_too_large,
    may_fit_smaller_call,
    raise_in_callers,
    settle,
    settle_in_time,
    settle_with,
    trace_contexts,
)
from workers.calls.failed_inputs import FailedInputs
from workers.calls.health import Health, is_of_server
from workers.calls.isolate import infer_each
from workers.calls.limits import Limits
from workers.calls.observers import CallTracer, Gate, Meter

# A call that a caller's deadline cut short counts as a server fault when it took this many base round trips.
SLOW_CALL_FACTOR = 10.0

UNLOADED = "the model was unloaded"
_NO_CALL_IN_TIME = "the deadline passed before a call"


class Dispatcher:
    """Dispatches many callers' inputs to one backend.

    `name` is for the log. A call has at most `max_batch` examples and `timeout_seconds`; at most
    `max_calls` calls are in flight. Below these limits the dispatcher learns what serves best. While the `gate` is closed,
    no call begins.
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
        gate: Gate | None = None,
    ) -> None:
        self._backend = backend
        self._timeout_seconds = timeout_seconds
        self._meter = meter
        self._tracer = tracer
        self._gate = gate
        self._waits_for_gate = False
        self._queue = BatchQueue()
        self._limits = Limits(max_batch=max_batch, max_calls=max_calls, timeout_seconds=timeout_seconds)
        self._health = Health(backend, name=name, on_opened=meter.breaker_opened)
        self._failed_inputs = FailedInputs()
        self._calls: set[asyncio.Task[None]] = set()
        self._send_is_due = False
        self._has_lone_call = False
        self._closed = False

    def infer(
        self,
        inputs: Sequence[JsonObject],
        *,
        digests: Sequence[bytes] = (),
        sizes_bytes: Sequence[int] = (),
        deadline_loop_seconds: float = math.inf,
    ) -> AsyncGenerator[Settled, None]:
        """A prediction, or the error in its place, for each input, as soon as its batch has ended.

        `digests` identify the inputs: one that failed by itself lately fails again without a call. `sizes_bytes` has
        the size of each input in JSON; without it all are taken for equally small.
        No call begins for this caller after `deadline_loop_seconds`, of the event loop's clock. Cancelling the
        caller, or closing the iterator, does not affect the other inputs of its batch.
        """
        caller = WaitingCaller(inputs, deadline_loop_seconds, sizes_bytes or [1] * len(inputs), digests)
        if self._tracer is not None:
            caller.trace_context = self._tracer.current()
        known: Mapping[int, Outcome] = {}
        if self._failed_inputs:
            known = self._failed_inputs.find(digests, asyncio.get_running_loop().time())
            for index, error in known.items():
                caller.settle(index, [error])
        self._queue.add(caller, known)
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
            if self._health.refuses(now):
                settle_with(self._queue.take_all(), self._health.refusal())
                return
            if self._gate is not None and not self._gate.is_open:
                if not self._waits_for_gate:
                    self._waits_for_gate = True
                    self._gate.when_open(self._gate_opened)
                return
            if len(self._calls) >= limits.calls or (self._calls and self._lone_call_is_due()):
                return
            is_probe = self._health.begin_call(now)
            batch = self._queue.take(1 if is_probe else limits.examples, limits.size_bytes)
            if not batch:
                # All waiting callers were cancelled.
                return
            is_full = sum(part.stop - part.start for part in batch) == limits.examples
            self._has_lone_call = is_full and limits.is_probing and not self._calls
            call = asyncio.create_task(self._call(batch))
            self._calls.add(call)
            call.add_done_callback(partial(self._ended, batch))

    def _gate_opened(self) -> None:
        self._waits_for_gate = False
        self._send()

    def _lone_call_is_due(self) -> bool:
        """True while a full batch is alone at the server, or waits to be."""
        if not self._limits.is_probing:
            return False
        return self._has_lone_call or self._queue.holds(self._limits.examples)

    def _ended(self, batch: Sequence[Part], call: asyncio.Task[None]) -> None:
        self._calls.discard(call)
        if call.cancelled():
            # Here, because a task that is cancelled before its first step runs nothing of its own.
            settle_with(batch, BackendUnavailableError(UNLOADED))
        else:
            self._send()

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
                outcomes: Sequence[Outcome] = await infer_each(
                    self._backend, inputs, timeout_seconds=timeout_seconds
                )
            else:
                with self._tracer.call(trace_contexts(batch), len(inputs)) as note:
                    outcomes = await infer_each(self._backend, inputs, timeout_seconds=timeout_seconds)
                    note(outcomes)
            seconds = loop.time() - started
            errors = errors_in(outcomes)
            if errors:
                outcomes = await self._health.judge(
                    outcomes, errors, started=started, now=started + seconds, timeout_seconds=timeout_seconds
                )
                errors = errors_in(outcomes)
        except Exception as error:  # noqa: BLE001  # a programming error, raised in every caller
            raise_in_callers(batch, error)
            return
        now = started + seconds
        in_flight = max(in_flight, len(self._calls))
        size_bytes = sum(part.size_bytes for part in batch)
        if errors:
            self._remember(batch, outcomes, now)
        if not self._closed and any(map(may_fit_smaller_call, errors)):
            self._queue.put_back(settle_in_time(batch, outcomes, now, is_alone=in_flight == 1))
        else:
            settle(batch, outcomes)
        self._meter.called(len(inputs), seconds)
        cut_short = timeout_seconds < self._timeout_seconds and seconds >= timeout_seconds
        if len(errors) < len(outcomes):
            at = next(
                index
                for index in reversed(range(len(outcomes)))
                if not isinstance(outcomes[index], Exception)
            )
            self._health.predicted(inputs[at], size_bytes // len(inputs), now)
        # A result that is no JSON is an answer.
        if not all(isinstance(error, NonFiniteResultError) for error in errors):
            if any(map(is_too_large, errors)):
                self._limits.too_large(len(outcomes), size_bytes, now)
            self._learn_from_errors(
                len(outcomes), errors, started, seconds, in_flight=in_flight, cut_short=cut_short
            )
        else:
            self._limits.succeeded(len(outcomes), seconds, in_flight=in_flight, now=now)
            self._health.responded(now)

    def _remember(self, batch: Sequence[Part], outcomes: Sequence[Outcome], now: float) -> None:
        """Remember the inputs of a batch that failed by themselves."""
        start = 0
        for part in batch:
            digests = part.caller.digests[part.start : part.stop]
            for digest, outcome in zip(digests, outcomes[start:], strict=False):
                if isinstance(outcome, BackendFailedError) and outcome.of_input:
                    self._failed_inputs.add(digest, outcome, now)
            start += part.stop - part.start

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
        serious = next(filter(is_of_server, errors), None)
        if len(errors) < count or serious is None:
            # A server that refuses an input for its content is healthy.
            self._health.responded(started + seconds)
            return
        if too_early:
            return
        if isinstance(serious, BackendUnavailableError):
            self._limits.unavailable(started=started, now=started + seconds)
        if self._health.predicted_at >= started:
            # The server predicted others meanwhile: this call failed for its inputs, or had to wait.
            return
        self._health.failed(str(serious), started + seconds)
