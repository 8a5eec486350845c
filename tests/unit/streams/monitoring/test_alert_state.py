"""streams/monitoring/alert_state.py: one event when an alert fires, and one when it resolves."""

from dataclasses import replace

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from schemas.alert_rules import LatencyBaseline, ModelRules
from schemas.events import Alert
from streams.monitoring.alert_state import (
    INACTIVE,
    UNKNOWN_SECONDS,
    AlertBook,
    AlertState,
    Observation,
    Phase,
    advance,
)
from streams.monitoring.rules.evaluation import AlertKey, Evaluation

HOLD_SECONDS, CLEAR_SECONDS = 10.0, 60.0
KEY = AlertKey("m", "v1", "latency_baseline")
RULES = ModelRules(latency_baseline=LatencyBaseline(hold_seconds=HOLD_SECONDS, clear_seconds=CLEAR_SECONDS))
OFF = ModelRules(latency_baseline=LatencyBaseline(enabled=False))
BREACHED = Evaluation(100.0, 30.0, 1, breached=True, cleared=False, baseline=10.0)
BETWEEN = replace(BREACHED, value=25.0, breached=False)
CLEARED = replace(BREACHED, value=11.0, breached=False, cleared=True)


def updated(
    book: AlertBook, evaluation: Evaluation | None, now: float, rules: ModelRules = RULES
) -> list[Alert]:
    evaluations = {} if evaluation is None else {KEY: evaluation}
    return book.update("m", evaluations, rules, now)


def states(
    book: AlertBook, evaluation: Evaluation | None, now: float, rules: ModelRules = RULES
) -> list[str]:
    return [alert.state for alert in updated(book, evaluation, now, rules)]


def fired() -> AlertBook:
    book = AlertBook()
    assert states(book, BREACHED, 0.0) == []
    assert states(book, BREACHED, 10.0) == ["firing"]
    return book


def test_it_fires_after_hold_seconds() -> None:
    """Once. A shorter breach is noise."""
    book = AlertBook()
    assert states(book, BREACHED, 0.0) == []
    assert states(book, BREACHED, 9.9) == []
    assert states(book, BETWEEN, 10.0) == []
    assert states(book, BREACHED, 11.0) == []
    assert states(book, BREACHED, 21.0) == ["firing"]
    assert states(book, BREACHED, 22.0) == []
    assert book.firing[KEY].model_dump(include={"rule", "severity", "value", "threshold", "baseline"}) == {
        "rule": "latency_baseline",
        "severity": "warning",
        "value": 100.0,
        "threshold": 30.0,
        "baseline": 10.0,
    }


def test_it_resolves_after_clear_seconds() -> None:
    """A value between the thresholds starts the time anew."""
    book = fired()
    alert_id = book.firing[KEY].alert_id
    assert states(book, CLEARED, 20.0) == []
    assert states(book, BETWEEN, 70.0) == []
    assert states(book, CLEARED, 80.0) == []
    assert states(book, CLEARED, 139.0) == []
    (resolved,) = updated(book, CLEARED, 140.0)
    assert (resolved.state, resolved.alert_id, resolved.value) == ("resolved", alert_id, 11.0)
    assert book.firing == {}


def test_it_resolves_when_its_rule_cannot_be_evaluated_for_long() -> None:
    """A short gap in the metrics does not resolve it."""
    book = fired()
    assert states(book, None, 20.0) == []
    assert states(book, BREACHED, 200.0) == []
    assert states(book, None, 300.0) == []
    assert states(book, None, 300.0 + UNKNOWN_SECONDS - 1) == []
    assert states(book, None, 300.0 + UNKNOWN_SECONDS) == ["resolved"]


@pytest.mark.parametrize("evaluation", [BREACHED, None])
def test_it_resolves_at_once_when_its_rule_is_disabled(evaluation: Evaluation | None) -> None:
    book = fired()
    assert states(book, None, 20.0, OFF) == ["resolved"]
    assert states(book, evaluation, 21.0, OFF) == []


def test_it_resolves_at_once_when_this_release_has_no_such_rule() -> None:
    """Another release fired it."""
    (alert,) = fired().firing.values()
    book = AlertBook([alert.model_copy(update={"rule": "of_another_release"})])
    (resolved,) = book.update("m", {}, RULES, 20.0)
    assert (resolved.state, resolved.rule) == ("resolved", "of_another_release")


def test_a_restored_book_goes_on() -> None:
    """An alert that fired before a restart does not fire again, and resolves."""
    book = AlertBook(fired().firing.values())
    assert states(book, BREACHED, 100.0) == []
    assert states(book, CLEARED, 110.0) == []
    assert states(book, CLEARED, 170.0) == ["resolved"]


def test_models_are_independent() -> None:
    book = fired()
    assert book.update("other", {}, RULES, 10_000.0) == []
    assert KEY in book.firing


EVALUATIONS = {
    Observation.BREACHED: (BREACHED, RULES),
    Observation.BETWEEN: (BETWEEN, RULES),
    Observation.CLEARED: (CLEARED, RULES),
    Observation.MISSING: (None, RULES),
    Observation.DISABLED: (None, OFF),
}


class AlertMachine(RuleBasedStateMachine):
    """Any sequence of observations, against the history of the observations alone."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.state: AlertState = INACTIVE
        self.fires = False
        self.last: Observation | None = None
        self.since = 0.0
        self.book = AlertBook()
        self.events: list[Alert] = []

    @rule(
        seen=st.sampled_from(Observation),
        after_seconds=st.sampled_from([0.5, 5.0, HOLD_SECONDS, 40.0, 200.0]),
    )
    def observe(self, seen: Observation, after_seconds: float) -> None:
        self.now += after_seconds
        if seen is not self.last:
            self.last, self.since = seen, self.now
        lasted = self.now - self.since
        if not self.fires:
            self.fires = seen is Observation.BREACHED and lasted >= HOLD_SECONDS
        else:
            self.fires = not (
                seen is Observation.DISABLED
                or (seen is Observation.CLEARED and lasted >= CLEAR_SECONDS)
                or (seen is Observation.MISSING and lasted >= UNKNOWN_SECONDS)
            )
        self.state = advance(
            self.state, seen, self.now, hold_seconds=HOLD_SECONDS, clear_seconds=CLEAR_SECONDS
        )
        evaluation, rules = EVALUATIONS[seen]
        events = updated(self.book, evaluation, self.now, rules)
        assert all(event.at.timestamp() == pytest.approx(self.now) for event in events)
        self.events += events

    @invariant()
    def it_fires_when_the_history_says_so(self) -> None:
        assert self.state.fires == self.fires
        assert (KEY in self.book.firing) == self.fires

    @invariant()
    def the_phase_began_with_the_observation_that_it_needs(self) -> None:
        assert (self.state.phase is Phase.INACTIVE) == (self.state is INACTIVE)
        needs = {
            Phase.PENDING: Observation.BREACHED,
            Phase.RESOLVING: Observation.CLEARED,
            Phase.UNKNOWN: Observation.MISSING,
        }
        if self.state.phase in needs:
            assert self.last is needs[self.state.phase]
            assert self.state.since == self.since

    @invariant()
    def events_alternate_and_come_in_pairs(self) -> None:
        expected = [("firing", "resolved")[number % 2] for number in range(len(self.events))]
        assert [event.state for event in self.events] == expected
        for first, second in zip(self.events[::2], self.events[1::2], strict=False):
            assert first.alert_id == second.alert_id
        assert len({event.alert_id for event in self.events}) == (len(self.events) + 1) // 2


TestAlertMachine = AlertMachine.TestCase
