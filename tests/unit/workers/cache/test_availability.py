"""workers/cache/availability.py: what Redis is used for after which events."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from workers.cache.availability import (
    RETRY_SECONDS,
    TRANSITIONS,
    Availability,
    CacheEvent,
    CacheState,
    advance,
)


def after(*events: CacheEvent, now: float = 0.0) -> CacheState:
    state = CacheState()
    for event in events:
        state = advance(state, event, now)
    return state


def test_one_failure_makes_it_unavailable_for_a_second() -> None:
    """A probe before `retry_at` is not sent; its answer puts the cache in use again."""
    lost = after(CacheEvent.NO_ANSWER, now=10.0)
    assert lost == CacheState(Availability.UNAVAILABLE, retry_at=10.0 + RETRY_SECONDS, lost_at=10.0)
    assert not lost.in_use
    assert advance(lost, CacheEvent.PROBE, 10.9) == lost
    probing = advance(lost, CacheEvent.PROBE, 11.0)
    assert (probing.availability, probing.in_use) == (Availability.PROBING, False)
    assert advance(probing, CacheEvent.READ_ANSWERED, 11.1).availability is Availability.READ_WRITE


def test_the_outage_began_with_its_first_failure() -> None:
    """Probes that fail prolong it."""
    state = after(CacheEvent.NO_ANSWER, now=5.0)
    for now in (6.0, 7.5):
        state = advance(advance(state, CacheEvent.PROBE, now), CacheEvent.NO_ANSWER, now + 0.5)
    assert state == CacheState(Availability.UNAVAILABLE, retry_at=9.0, lost_at=5.0)


def test_refused_writes_leave_it_readable() -> None:
    """The next accepted write makes it writable."""
    state = after(CacheEvent.WRITE_REFUSED)
    assert (state.availability, state.in_use) == (Availability.READ_ONLY, True)
    assert advance(state, CacheEvent.READ_ANSWERED, 0).availability is Availability.READ_ONLY
    assert advance(state, CacheEvent.WRITE_ACCEPTED, 0).availability is Availability.READ_WRITE


@pytest.mark.parametrize("event", [event for event in CacheEvent if event is not CacheEvent.PROBE])
def test_late_results_change_nothing_while_unavailable(event: CacheEvent) -> None:
    """They are of calls from before the failure."""
    lost = after(CacheEvent.NO_ANSWER)
    assert advance(lost, event, 100.0) == lost


class AvailabilityMachine(RuleBasedStateMachine):
    """Any order of calls and results, over any time."""

    def __init__(self) -> None:
        super().__init__()
        self.state = CacheState()
        self.now = 0.0
        self.last_probe = float("-inf")

    @rule(seconds=st.floats(0, 3))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(event=st.sampled_from(CacheEvent))
    def step(self, event: CacheEvent) -> None:
        """Advance, and compare the change with the table."""
        before = self.state
        self.state = advance(before, event, self.now)
        if self.state != before:
            assert TRANSITIONS[before.availability, event] is self.state.availability
        if event is CacheEvent.PROBE and self.state != before:
            assert not before.in_use
            assert self.now >= self.last_probe + RETRY_SECONDS
            self.last_probe = self.now
        if event is CacheEvent.NO_ANSWER:
            assert not self.state.in_use
        if not before.in_use and self.state.in_use:
            assert event is CacheEvent.READ_ANSWERED

    @invariant()
    def no_pause_is_longer_than_configured(self) -> None:
        assert self.state.retry_at <= self.now + RETRY_SECONDS

    @invariant()
    def an_outage_began_in_the_past(self) -> None:
        assert self.state.lost_at <= self.now


TestAvailabilityMachine = AvailabilityMachine.TestCase


@pytest.mark.parametrize("availability", Availability)
def test_every_state_can_be_entered_and_left(availability: Availability) -> None:
    """The table has no dead end."""
    assert availability in TRANSITIONS.values()
    assert any(
        before is availability and later is not availability for (before, _), later in TRANSITIONS.items()
    )
