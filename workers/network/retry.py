"""PURE rules for asking a model server again.

Only where nobody worked on the request, or it does no harm to work on it twice, and then only as long as
the retry budget lasts: each call earns a tenth of a retry, so a server that is down or overloaded
sees at most a tenth more calls, not several times as many. Pauses grow and have full jitter, so that
workers do not come back together.
"""

from dataclasses import dataclass

MAX_TRIES = 3
# What gateways and servers say when nobody worked on the request.
RETRIED_STATUSES = frozenset({502, 503, 504})
TOO_MANY_REQUESTS = 429

_EARNED_BY_A_CALL = 0.1
_BUDGET = 10.0
_FIRST_PAUSE_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class RetryBudget:
    """How many retries may still be made; a few to begin with."""

    retries: float = _BUDGET


def earned(budget: RetryBudget) -> RetryBudget:
    """After a call that was not itself a retry."""
    return RetryBudget(min(_BUDGET, budget.retries + _EARNED_BY_A_CALL))


def spent(budget: RetryBudget) -> RetryBudget | None:
    """With one retry less; None when there is none left."""
    return RetryBudget(budget.retries - 1) if budget.retries >= 1 else None


def pause_seconds(tries: int, chance: float, retry_after_seconds: float | None = None) -> float:
    """How long to wait after so many tries; `chance` is random, from 0 to 1."""
    jittered: float = chance * _FIRST_PAUSE_SECONDS * 2**tries
    return jittered if retry_after_seconds is None else retry_after_seconds + jittered


def is_retried(status: int, retry_after_seconds: float | None) -> bool:
    """Whether an answer of this status says that the request may be sent again.

    A server that sheds load (429) says when; if it does not, to come back would be part of the load.
    """
    return status in RETRIED_STATUSES or (status == TOO_MANY_REQUESTS and retry_after_seconds is not None)


def read_retry_after(header: str | None) -> float | None:
    """The seconds of a `Retry-After` header; None when there is none, or a date (RFC 9110, 10.2.3)."""
    if header is None or not header.strip().isdecimal():
        return None
    return float(header)
