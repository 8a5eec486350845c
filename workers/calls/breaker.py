"""PURE circuit breaker: whether to call a server that may be down.

Closed: every call goes. After `failures` failures in a row the breaker opens: no call goes. After
`open_seconds` one call goes as a probe (half-open). The probe's result closes the breaker or opens it
again. A probe without a result is replaced after another `open_seconds`, so a lost caller cannot keep
the breaker open for ever.

`TRANSITIONS` has every change of phase; `advance` is the only function that makes one. Times are
seconds of one monotonic clock, passed in as `now`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum


class Phase(StrEnum):
    """What the breaker does with calls."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class BreakerEvent(StrEnum):
    """What happens to the breaker. Callers pass CALL, SUCCESS and FAILURE; `advance` derives the fourth."""

    CALL = "call after open_seconds"
    SUCCESS = "success"
    FAILURE = "failure"
    LAST_FAILURE = "failures in a row"


# Every other pair leaves the phase as it is. While open, results are of calls from before: a late success
# is outdated, since others failed after that call was sent, and a late failure does not prolong the pause.
TRANSITIONS: Mapping[tuple[Phase, BreakerEvent], Phase] = {
    (Phase.CLOSED, BreakerEvent.LAST_FAILURE): Phase.OPEN,
    (Phase.OPEN, BreakerEvent.CALL): Phase.HALF_OPEN,
    (Phase.HALF_OPEN, BreakerEvent.CALL): Phase.HALF_OPEN,
    (Phase.HALF_OPEN, BreakerEvent.SUCCESS): Phase.CLOSED,
    (Phase.HALF_OPEN, BreakerEvent.FAILURE): Phase.OPEN,
}


@dataclass(frozen=True, slots=True)
class BreakerConfig:
    """The number of failures in a row that opens the breaker, and the pause before a probe."""

    failures: int
    open_seconds: float


@dataclass(frozen=True, slots=True)
class Breaker:
    """A breaker's state; `retry_at` is the earliest time of the next probe, unless closed."""

    phase: Phase = Phase.CLOSED
    failures_in_a_row: int = 0
    retry_at: float = 0.0


CLOSED = Breaker()


def refuses(breaker: Breaker, now: float) -> bool:
    """True when no call may go now."""
    return breaker.phase is not Phase.CLOSED and now < breaker.retry_at


def advance(breaker: Breaker, event: BreakerEvent, now: float, config: BreakerConfig) -> Breaker:
    """The state after an event.

    A caller passes CALL before each call that `refuses` allows, and then SUCCESS or FAILURE. The call is
    the probe when the phase is half-open then.
    """
    if event is BreakerEvent.CALL and refuses(breaker, now):
        return breaker
    if event is BreakerEvent.FAILURE and breaker.phase is Phase.CLOSED:
        failures = breaker.failures_in_a_row + 1
        if failures < config.failures:
            return replace(breaker, failures_in_a_row=failures)
        event = BreakerEvent.LAST_FAILURE
    elif event is BreakerEvent.SUCCESS and breaker.phase is Phase.CLOSED:
        return CLOSED
    phase = TRANSITIONS.get((breaker.phase, event))
    if phase is None:
        return breaker
    return CLOSED if phase is Phase.CLOSED else Breaker(phase, retry_at=now + config.open_seconds)
