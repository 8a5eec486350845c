"""PURE rules for repeating a request to a model server.

A request is repeated only when no server has processed it, or when processing it twice is harmless, and
only within the retry budget: each call earns a tenth of a retry, so a server that is down or overloaded
gets at most 10% more calls. Pauses grow exponentially with full jitter, so that workers do not retry at
the same time.
"""

from dataclasses import dataclass

from schemas.backoff import backoff_seconds

MAX_TRIES = 3
# Statuses by which gateways and servers report that the request was not processed.
RETRIED_STATUSES = frozenset({502, 503, 504})
TOO_MANY_REQUESTS = 429

_EARNED_BY_A_CALL = 0.1
_BUDGET = 10.0
_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class RetryBudget:
    """The number of retries left; a new budget is full."""

    retries: float = _BUDGET


def earned(budget: RetryBudget) -> RetryBudget:
    """The budget after a call that was not a retry."""
    return RetryBudget(min(_BUDGET, budget.retries + _EARNED_BY_A_CALL))


def spent(budget: RetryBudget) -> RetryBudget | None:
    """The budget with one retry less; None when it has less than one."""
    return RetryBudget(budget.retries - 1) if budget.retries >= 1 else None


def pause_seconds(tries: int, chance: float, retry_after_seconds: float | None = None) -> float:
    """The pause after `tries` tries, from 1; `chance` in [0, 1] is random. A server's `Retry-After` is added."""
    jittered_seconds = backoff_seconds(
        tries, first_seconds=_FIRST_PAUSE_SECONDS, longest_seconds=_LONGEST_PAUSE_SECONDS, chance=chance
    )
    return jittered_seconds if retry_after_seconds is None else retry_after_seconds + jittered_seconds


def is_retried(status: int, retry_after_seconds: float | None) -> bool:
    """True when a response with this status allows a repetition.

    A server that sheds load (429) gets one only after its `Retry-After`: otherwise retries add to the load.
    """
    return status in RETRIED_STATUSES or (status == TOO_MANY_REQUESTS and retry_after_seconds is not None)


def read_retry_after(header: str | None) -> float | None:
    """The seconds of a `Retry-After` header (RFC 9110, 10.2.3); None without one, or for a date.

    Dates are not read, because the server's clock may be wrong.
    """
    if header is None or not header.strip().isdecimal():
        return None
    return float(header)
