"""Whether the server of a version is well: the circuit breaker, and evidence of whose fault a failure is.

A failure is the input's fault when the server predicts others. That is so when it does in the same batch, or for an
input that it predicted before, which is asked again for this purpose. Otherwise it counts for the breaker.
"""

import math
from collections.abc import Callable, Sequence

import structlog

from schemas.errors import (
    AnswerAndDeadLetterError,
    BackendBrokenError,
    BackendFailedError,
    BackendTimeoutError,
    BackendTooLargeError,
    BackendUnavailableError,
    NonFiniteResultError,
)
from schemas.events import JsonObject
from workers.backends.port import Backend
from workers.calls import breaker
from workers.calls.breaker import BreakerConfig, BreakerEvent, Phase
from workers.calls.callers import Outcome
from workers.calls.isolate import TRIED_ALONE

log = structlog.get_logger()

# When a server hangs, the calls in flight time out together, which is about this many; then all waiting callers fail.
BREAKER = BreakerConfig(failures=3, open_seconds=2.0)
# A model that predicted an input so many seconds ago can predict: what it refuses now is refused for its content.
EVIDENCE_SECONDS = 60.0
# A larger input is not kept to be asked again.
KEPT_BYTES = 64 * 1024


class Health:
    """The health of one version's server; `on_opened` is called when the breaker opens."""

    def __init__(self, backend: Backend, *, name: str, on_opened: Callable[[], None]) -> None:
        self._backend = backend
        self._name = name
        self._on_opened = on_opened
        self._breaker = breaker.CLOSED
        self._last_failure = ""
        self._predicted: JsonObject | None = None
        self.predicted_at = -math.inf
        """The end of the last call with predictions."""

    def refuses(self, now: float) -> bool:
        """True when no call may go now."""
        return breaker.refuses(self._breaker, now)

    def begin_call(self, now: float) -> bool:
        """Pass each call that is not refused; True when it is a probe, with one example."""
        self._advance(BreakerEvent.CALL, now)
        return self._breaker.phase is Phase.HALF_OPEN

    def refusal(self) -> BackendUnavailableError:
        """The error of inputs for which no call goes."""
        return BackendUnavailableError(f"the model server is not called for now: {self._last_failure}")

    def predicted(self, value: JsonObject, size_bytes: int, now: float) -> None:
        """A call had predictions, among them that of this input."""
        self.predicted_at = now
        if size_bytes <= KEPT_BYTES:
            self._predicted = value
        self.responded(now)

    def responded(self, now: float) -> None:
        """A call had a response of a working server."""
        before = self._breaker.phase
        self._advance(BreakerEvent.SUCCESS, now)
        if before is Phase.HALF_OPEN:
            log.info("model server called again", version=self._name)

    def failed(self, reason: str, now: float) -> None:
        """A call had no response, or one that no working server gives."""
        before = self._breaker.phase
        self._last_failure = reason
        self._advance(BreakerEvent.FAILURE, now)
        if self._breaker.phase is Phase.OPEN and before is Phase.CLOSED:
            log.warning("model server not called for a while", version=self._name, reason=reason)
            self._on_opened()

    async def judge(
        self,
        outcomes: Sequence[Outcome],
        errors: Sequence[AnswerAndDeadLetterError],
        *,
        started: float,
        now: float,
        timeout_seconds: float,
    ) -> Sequence[Outcome]:
        """The outcomes of a call with these errors, where the errors that are their inputs' fault are marked.

        When all failed though the server predicts others, most examples of a large batch were not tried alone. Their
        outcome is a timeout then, so that they are.
        """
        faults = [error for error in errors if isinstance(error, BackendFailedError)]
        if len(errors) == len(outcomes):
            if len(faults) < len(errors):
                return outcomes
            # Those with NaN are known by themselves.
            some_untried = len(errors) > TRIED_ALONE and not all(map(_is_known_by_itself, faults))
            if some_untried or any(isinstance(error, BackendBrokenError) for error in faults):
                if self.predicted_at < started and not await self._predicts_again(timeout_seconds):
                    return outcomes
            elif now - self.predicted_at > EVIDENCE_SECONDS:
                return outcomes
            if some_untried:
                untried = BackendTimeoutError("a bad example was not isolated in time")
                outcomes = [error if _is_known_by_itself(error) else untried for error in faults]
        for error in faults:
            error.of_input = True
        return outcomes

    async def _predicts_again(self, timeout_seconds: float) -> bool:
        """Ask the server again for an input that it predicted before."""
        if self._predicted is None:
            return False
        try:
            (prediction,) = await self._backend.infer([self._predicted], timeout_seconds=timeout_seconds)
        except (BackendUnavailableError, BackendFailedError):
            return False
        return not isinstance(prediction, BackendFailedError)

    def _advance(self, event: BreakerEvent, now: float) -> None:
        self._breaker = breaker.advance(self._breaker, event, now, BREAKER)


def is_of_server(error: Outcome) -> bool:
    """True for an error that the server causes and not an input."""
    return isinstance(error, BackendUnavailableError) or (
        isinstance(error, BackendBrokenError) and not error.of_input
    )


def _is_known_by_itself(error: BackendFailedError) -> bool:
    return isinstance(error, NonFiniteResultError | BackendTooLargeError)
