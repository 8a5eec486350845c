"""PURE circuit breaker: whether to call something that may be down.

Closed lets everything through. `failures` failures in a row open it: nobody calls. After
`open_seconds` one caller is let through (half-open); what becomes of that call closes the breaker
or opens it again. A probe that never reports is given up after another `open_seconds`, so a lost
caller cannot keep the breaker open for ever.

Times are seconds of any one monotonic clock, handed in as `now`.
"""

from dataclasses import dataclass, replace
from enum import StrEnum


class Phase(StrEnum):
    """What the breaker does with callers."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


@dataclass(frozen=True, slots=True)
class BreakerConfig:
    """When to open and for how long."""

    failures: int
    open_seconds: float


@dataclass(frozen=True, slots=True)
class Breaker:
    """A breaker's state; `retry_at` is when the next probe may go, unless closed."""

    phase: Phase = Phase.CLOSED
    failures_in_a_row: int = 0
    retry_at: float = 0.0


CLOSED = Breaker()


def refuses(breaker: Breaker, now: float) -> bool:
    """Whether no call may go now; what else `admit` would say, without asking for a call."""
    return breaker.phase is not Phase.CLOSED and now < breaker.retry_at


def admit(breaker: Breaker, now: float, config: BreakerConfig) -> tuple[Breaker, bool]:
    """May a call go now? An admitted call in phase half-open is the probe.

    Everyone who is admitted reports back by `succeeded` or `failed`.
    """
    if refuses(breaker, now):
        return breaker, False
    if breaker.phase is Phase.CLOSED:
        return breaker, True
    return replace(breaker, phase=Phase.HALF_OPEN, retry_at=now + config.open_seconds), True


def succeeded(breaker: Breaker) -> Breaker:
    """A call was answered.

    While open this is the late answer to a call from before: no news, since others failed after it
    went out.
    """
    return breaker if breaker.phase is Phase.OPEN else CLOSED


def failed(breaker: Breaker, now: float, config: BreakerConfig) -> Breaker:
    """A call was not answered. While open it changes nothing: late failures do not prolong it."""
    if breaker.phase is Phase.OPEN:
        return breaker
    failures = breaker.failures_in_a_row + 1
    if breaker.phase is Phase.CLOSED and failures < config.failures:
        return replace(breaker, failures_in_a_row=failures)
    return Breaker(Phase.OPEN, failures, now + config.open_seconds)
