"""The callers of a dispatcher, and how the outcomes of a batch reach them."""

import asyncio
import itertools
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from typing import Any

from schemas.errors import AnswerAndDeadLetterError, AnswerError, BackendTimeoutError, BackendTooLargeError
from schemas.events import JsonObject
from workers.calls.batching import Caller, Part, Settled

# After a timeout a batch of up to FEW examples is tried in calls of one example, a larger one in so many PARTS.
FEW, PARTS = 32, 16
# Of one example among other calls in flight. Each makes them fewer.
LATE_CALLS = 3

Outcome = Any | AnswerError
"""A prediction, or the error in its place."""


class WaitingCaller(Caller):
    """A caller that waits for its outcomes, with a trace context where requests are traced."""

    __slots__ = ("_fault", "_news", "trace_context")

    trace_context: Any

    def __init__(
        self,
        inputs: Sequence[JsonObject],
        deadline_loop_seconds: float,
        sizes_bytes: Sequence[int],
        digests: Sequence[bytes],
    ) -> None:
        super().__init__(list(inputs), deadline_loop_seconds, sizes_bytes, digests)
        self._fault: Exception | None = None
        self._news: asyncio.Future[None] | None = None

    async def parts(self) -> AsyncGenerator[Settled, None]:
        """The outcomes as batches end, until every input has one; raises the error of `fail`.

        When the iteration ends earlier, the rest of the inputs is left out of later batches.
        """
        try:
            while self.settled or self.unsettled:
                if self._fault is not None:
                    raise self._fault
                if not self.settled:
                    self._news = asyncio.get_running_loop().create_future()
                    await self._news
                for settled in self.take_settled():
                    yield settled
        finally:
            self.cancelled = True

    def settle(self, start: int, outcomes: Sequence[Outcome]) -> None:
        """Add outcomes, and wake the caller."""
        Caller.settle(self, start, outcomes)
        self._wake()

    def fail(self, error: Exception) -> None:
        """Raise a fault of our own in the caller; the rest of its inputs is left out of later batches."""
        self.cancelled = True
        self._fault = error
        self._wake()

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)


def errors_in(outcomes: Sequence[Outcome]) -> list[AnswerAndDeadLetterError]:
    return [outcome for outcome in outcomes if isinstance(outcome, AnswerAndDeadLetterError)]


def is_timeout(outcome: Outcome) -> bool:
    return isinstance(outcome, BackendTimeoutError)


def is_too_large(outcome: Outcome) -> bool:
    return isinstance(outcome, BackendTooLargeError)


def may_fit_smaller_call(outcome: Outcome) -> bool:
    return isinstance(outcome, BackendTimeoutError | BackendTooLargeError)


def trace_contexts(batch: Sequence[Part]) -> list[Any]:
    return [part.caller.trace_context for part in batch if isinstance(part.caller, WaitingCaller)]


def settle(batch: Sequence[Part], outcomes: Sequence[Outcome]) -> None:
    """Hand the outcomes of a batch, in order, to its callers."""
    start = 0
    for part in batch:
        stop = start + part.stop - part.start
        part.caller.settle(part.start, outcomes[start:stop])
        start = stop


def settle_in_time(
    batch: Sequence[Part], outcomes: Sequence[Outcome], now: float, *, is_alone: bool
) -> list[Part]:
    """Like `settle`, but return the inputs that may get an outcome in another call, and whose caller has time for it.

    The call was too large, or took too long: for its examples, or for the other calls that were in flight unless it
    `is_alone`.
    """
    again: list[Part] = []
    start = 0
    for part in batch:
        stop = start + part.stop - part.start
        first = part.start
        for (timed_out, too_large), group in itertools.groupby(
            outcomes[start:stop], lambda outcome: (is_timeout(outcome), is_too_large(outcome))
        ):
            of_group = list(group)
            piece = Part(part.caller, first, first + len(of_group))
            if timed_out:
                late_calls = part.late_calls + (len(outcomes) == 1)
                piece = replace(piece, most=_most_after_timeout(len(outcomes)), late_calls=late_calls)
                again_later = len(outcomes) > 1 or (late_calls < LATE_CALLS and not is_alone)
            else:
                again_later = too_large and len(outcomes) > 1
            if again_later and part.caller.deadline_loop_seconds > now:
                again.append(piece)
            else:
                settle([piece], of_group)
            first = piece.stop
        start = stop
    return again


def _most_after_timeout(count: int) -> int:
    """The examples of a call after one of `count` that took too long; one of them may take that long by itself."""
    return 1 if count <= FEW else count // PARTS


def settle_with(batch: Sequence[Part], error: AnswerError) -> None:
    """Fail every input of a batch with the same error."""
    settle(batch, [error] * sum(part.stop - part.start for part in batch))


def raise_in_callers(batch: Sequence[Part], error: Exception) -> None:
    """Raise a fault of our own in every caller of a batch."""
    for part in batch:
        assert isinstance(part.caller, WaitingCaller)
        part.caller.fail(error)
