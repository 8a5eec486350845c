"""PURE state of the cache's availability: when Redis is read, written, avoided and probed.

`TRANSITIONS` has every change of state; `advance` is the only function that makes one. Times are
seconds of one monotonic clock, passed in as `now`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

RETRY_SECONDS = 1.0


class Availability(StrEnum):
    """What Redis is used for."""

    READ_WRITE = "read-write"
    READ_ONLY = "read-only"
    UNAVAILABLE = "unavailable"
    PROBING = "probing"


class CacheEvent(StrEnum):
    """What happens to a call of the cache."""

    READ_ANSWERED = "read answered"
    WRITE_ACCEPTED = "write accepted"
    WRITE_REFUSED = "write refused"
    NO_ANSWER = "no answer"
    PROBE = "read after the pause"


# Every other pair leaves the state as it is: while unavailable, results are of calls from before.
TRANSITIONS: Mapping[tuple[Availability, CacheEvent], Availability] = {
    (Availability.READ_WRITE, CacheEvent.WRITE_REFUSED): Availability.READ_ONLY,
    (Availability.READ_WRITE, CacheEvent.NO_ANSWER): Availability.UNAVAILABLE,
    # Writes are still tried, which shows when Redis accepts them again.
    (Availability.READ_ONLY, CacheEvent.WRITE_ACCEPTED): Availability.READ_WRITE,
    (Availability.READ_ONLY, CacheEvent.NO_ANSWER): Availability.UNAVAILABLE,
    (Availability.UNAVAILABLE, CacheEvent.PROBE): Availability.PROBING,
    (Availability.PROBING, CacheEvent.READ_ANSWERED): Availability.READ_WRITE,
    (Availability.PROBING, CacheEvent.NO_ANSWER): Availability.UNAVAILABLE,
    # A probe that ended without a result is replaced.
    (Availability.PROBING, CacheEvent.PROBE): Availability.PROBING,
}


@dataclass(frozen=True, slots=True)
class CacheState:
    """`retry_at` is the earliest time of the next probe, `lost_at` the time of the failure that began the outage.

    Both are without meaning while the cache is in use.
    """

    availability: Availability = Availability.READ_WRITE
    retry_at: float = 0.0
    lost_at: float = 0.0

    @property
    def in_use(self) -> bool:
        """True when callers wait for Redis."""
        return self.availability in (Availability.READ_WRITE, Availability.READ_ONLY)


def advance(state: CacheState, event: CacheEvent, now: float) -> CacheState:
    """The state after an event. PROBE changes nothing before `retry_at`."""
    if event is CacheEvent.PROBE and now < state.retry_at:
        return state
    after = TRANSITIONS.get((state.availability, event))
    if after is None:
        return state
    changed = replace(state, availability=after)
    if changed.in_use:
        return changed
    return replace(changed, retry_at=now + RETRY_SECONDS, lost_at=now if state.in_use else state.lost_at)
