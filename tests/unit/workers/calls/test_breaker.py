"""workers/calls/breaker.py: which calls go, and when."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from workers.calls.breaker import (
    CLOSED,
    TRANSITIONS,
    Breaker,
    BreakerConfig,
    BreakerEvent,
    Phase,
    advance,
    refuses,
)

CONFIG = BreakerConfig(failures=3, open_seconds=10.0)


def call(breaker: Breaker, now: float) -> Breaker:
    return advance(breaker, BreakerEvent.CALL, now, CONFIG)


def succeeded(breaker: Breaker, now: float = 0) -> Breaker:
    return advance(breaker, BreakerEvent.SUCCESS, now, CONFIG)


def failed(breaker: Breaker, now: float) -> Breaker:
    return advance(breaker, BreakerEvent.FAILURE, now, CONFIG)


def opened(now: float) -> Breaker:
    breaker = CLOSED
    for _ in range(CONFIG.failures):
        breaker = failed(breaker, now)
    return breaker


def test_failures_in_a_row_open_it() -> None:
    """A success in between resets the count."""
    breaker = failed(failed(CLOSED, 0), 0)
    assert breaker.phase is Phase.CLOSED
    assert failed(breaker, 0).phase is Phase.OPEN
    assert failed(succeeded(breaker), 0).phase is Phase.CLOSED


def test_open_allows_one_probe_after_its_time() -> None:
    """No call before `open_seconds`, then one, then none until it has a result."""
    breaker = opened(now=100)
    assert refuses(breaker, 109.9)
    assert call(breaker, 109.9) == breaker
    assert not refuses(breaker, 110)
    probing = call(breaker, 110)
    assert probing.phase is Phase.HALF_OPEN
    assert refuses(probing, 110)


def test_the_probe_decides() -> None:
    """A success closes the breaker; one failure opens it for the full time."""
    probing = call(opened(now=0), 10)
    assert succeeded(probing) == CLOSED
    again = failed(probing, 12)
    assert (again.phase, again.retry_at) == (Phase.OPEN, 22)


def test_late_results_change_nothing_while_open() -> None:
    """Results of calls from before neither close the breaker nor prolong the pause."""
    breaker = opened(now=0)
    assert succeeded(breaker) == breaker
    assert failed(breaker, 9) == breaker


def test_a_lost_probe_is_replaced() -> None:
    """A probe without a result is followed by another after `open_seconds`."""
    probing = call(opened(now=0), 10)
    assert refuses(probing, 19.9)
    assert not refuses(probing, 20)
    assert call(probing, 20).retry_at == 30


class BreakerMachine(RuleBasedStateMachine):
    """Any order of calls and results, over any time."""

    config = CONFIG

    def __init__(self) -> None:
        super().__init__()
        self.breaker = CLOSED
        self.now = 0.0
        self.last_probe = float("-inf")
        self.failures_in_a_row = 0

    @rule(seconds=st.floats(0, 25))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def call(self) -> None:
        refused = refuses(self.breaker, self.now)
        self.step(BreakerEvent.CALL)
        if self.breaker.phase is Phase.HALF_OPEN and not refused:
            assert self.now >= self.last_probe + self.config.open_seconds
            self.last_probe = self.now
        assert refused or self.breaker.phase is not Phase.OPEN

    @rule()
    def success(self) -> None:
        self.failures_in_a_row = 0
        self.step(BreakerEvent.SUCCESS)

    @rule()
    def failure(self) -> None:
        self.failures_in_a_row += 1
        self.step(BreakerEvent.FAILURE)

    def step(self, event: BreakerEvent) -> None:
        """Advance, and compare the change with the table."""
        before = self.breaker
        self.breaker = advance(before, event, self.now, self.config)
        if self.breaker.phase is not before.phase:
            if before.phase is Phase.CLOSED:
                event = BreakerEvent.LAST_FAILURE
                assert self.failures_in_a_row >= self.config.failures
            assert TRANSITIONS[before.phase, event] is self.breaker.phase
        if self.breaker.phase is Phase.CLOSED:
            self.last_probe = float("-inf")

    @invariant()
    def closed_has_fewer_failures_than_the_limit(self) -> None:
        assert self.breaker.phase is not Phase.CLOSED or self.breaker.failures_in_a_row < self.config.failures

    @invariant()
    def no_pause_is_longer_than_configured(self) -> None:
        assert self.breaker.retry_at <= self.now + self.config.open_seconds


class OneFailureMachine(BreakerMachine):
    """A single failure opens it."""

    config = BreakerConfig(failures=1, open_seconds=2.0)


TestBreakerMachine = BreakerMachine.TestCase
TestOneFailureMachine = OneFailureMachine.TestCase


@pytest.mark.parametrize("phase", Phase)
def test_every_phase_can_be_entered_and_left(phase: Phase) -> None:
    """The table has no dead end."""
    assert phase in TRANSITIONS.values()
    assert any(before is phase and after is not phase for (before, _), after in TRANSITIONS.items())
