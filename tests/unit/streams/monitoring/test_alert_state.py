"""streams/monitoring/alert_state.py: one event when a condition fires and one when it resolves."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.alert_rules import LatencyBaseline, ModelRules
from schemas.events import Alert
from streams.monitoring.alert_state import UNJUDGED_SECONDS, AlertBook
from streams.monitoring.evaluation import AlertName, Evaluation

NAME: AlertName = ("m", "v1", "latency_baseline")
RULES = ModelRules(latency_baseline=LatencyBaseline(hold_seconds=10, clear_seconds=60))
BAD = Evaluation(100.0, 30.0, 1, breached=True, cleared=False, baseline=10.0)
BETWEEN = Evaluation(25.0, 30.0, 1, breached=False, cleared=False, baseline=10.0)
CLEAR = Evaluation(11.0, 30.0, 1, breached=False, cleared=True, baseline=10.0)


def advance(
    book: AlertBook, evaluation: Evaluation | None, now: float, rules: ModelRules = RULES
) -> list[str]:
    evaluations = {} if evaluation is None else {NAME: evaluation}
    return [alert.state for alert in book.advance("m", evaluations, rules, now)]


def fired() -> AlertBook:
    book = AlertBook()
    assert advance(book, BAD, 0.0) == []
    assert advance(book, BAD, 10.0) == ["firing"]
    return book


def test_it_fires_when_it_was_bad_for_a_while() -> None:
    """Once; what is seen for less is noise."""
    book = AlertBook()
    assert advance(book, BAD, 0.0) == []
    assert advance(book, BAD, 9.9) == []
    assert advance(book, BETWEEN, 10.0) == []
    assert advance(book, BAD, 11.0) == []
    assert advance(book, BAD, 21.0) == ["firing"]
    assert advance(book, BAD, 22.0) == []
    assert book.firing[NAME].model_dump(include={"rule", "severity", "value", "threshold", "baseline"}) == {
        "rule": "latency_baseline",
        "severity": "warning",
        "value": 100.0,
        "threshold": 30.0,
        "baseline": 10.0,
    }


def test_it_resolves_when_it_was_clear_for_a_while() -> None:
    """Below the threshold is not clear yet."""
    book = fired()
    alert_id = book.firing[NAME].alert_id
    assert advance(book, CLEAR, 20.0) == []
    assert advance(book, BETWEEN, 70.0) == []
    assert advance(book, CLEAR, 80.0) == []
    assert advance(book, CLEAR, 139.0) == []
    (resolved,) = book.advance("m", {NAME: CLEAR}, RULES, 140.0)
    assert (resolved.state, resolved.alert_id, resolved.value) == ("resolved", alert_id, 11.0)
    assert book.firing == {}


def test_what_cannot_be_judged_any_more_resolves_after_a_longer_while() -> None:
    """A gap in the metrics is no recovery; a version that is gone is."""
    book = fired()
    assert advance(book, None, 20.0) == []
    assert advance(book, BAD, 200.0) == []
    assert advance(book, None, 300.0) == []
    assert advance(book, None, 300.0 + UNJUDGED_SECONDS - 1) == []
    assert advance(book, None, 300.0 + UNJUDGED_SECONDS) == ["resolved"]


@pytest.mark.parametrize("evaluation", [BAD, None])
def test_a_rule_that_is_switched_off_resolves_at_once(evaluation: Evaluation | None) -> None:
    """Whoever switches it off has seen it."""
    off = ModelRules(latency_baseline=LatencyBaseline(enabled=False))
    book = fired()
    assert advance(book, None, 20.0, off) == ["resolved"]
    assert advance(book, evaluation, 21.0) == []


def test_a_book_that_is_opened_again_goes_on() -> None:
    """What fired before a restart does not fire twice, and is not forgotten."""
    book = AlertBook(fired().firing.values())
    assert advance(book, BAD, 100.0) == []
    assert advance(book, CLEAR, 110.0) == []
    assert advance(book, CLEAR, 170.0) == ["resolved"]


def test_models_do_not_touch_each_other() -> None:
    """The evaluations of one say nothing of another."""
    book = fired()
    assert book.advance("other", {}, RULES, 10_000.0) == []
    assert NAME in book.firing


@given(
    st.lists(st.sampled_from([BAD, BETWEEN, CLEAR, None]), max_size=300), st.randoms(use_true_random=False)
)
def test_events_take_turns_whatever_is_seen(
    evaluations: list[Evaluation | None], chance: random.Random
) -> None:
    """Firing, resolved, firing …, each pair with an id of its own, at least the times of the rule apart."""
    book, now, events = AlertBook(), 0.0, list[Alert]()
    for evaluation in evaluations:
        now += chance.choice([0.5, 5.0, 40.0])
        events += book.advance("m", {} if evaluation is None else {NAME: evaluation}, RULES, now)
    assert [event.state for event in events] == ["firing", "resolved"] * (len(events) // 2) + ["firing"] * (
        len(events) % 2
    )
    for first, second in zip(events[::2], events[1::2], strict=False):
        assert first.alert_id == second.alert_id
        assert (second.at - first.at).total_seconds() >= 60
    assert len({event.alert_id for event in events}) == (len(events) + 1) // 2
