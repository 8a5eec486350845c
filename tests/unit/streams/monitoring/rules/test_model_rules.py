"""streams/monitoring/rules/model_rules.py with the engine: which changes each rule detects, and how soon."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from schemas.alert_rules import ErrorRate, LatencyBaseline, ModelRules
from schemas.events import Alert
from streams.monitoring.rules.error_rate import error_rate
from streams.monitoring.rules.evaluation import Evaluation
from streams.monitoring.rules.model_view import ModelView
from streams.monitoring.series import VersionSeries
from tests.simulation.traffic import START, Plan, SimulatedVersion, Simulation, always
from tests.support.metrics.deltas import NOON, delta

WARM = 1020
ALONE = {"m": ({"v1": 1.0}, "v1")}


def since(start: int, usual: float, then: float, until: int = 10**9) -> Plan:
    """One value, and another one from `start` to `until`."""
    return lambda at: np.where((at >= start) & (at < until), then, usual)


def one(rate: float = 500.0, *, seed: int = 1, **plans: Any) -> Simulation:
    """A model with one version."""
    version = SimulatedVersion("m", "v1", always(rate), **({"hit_share": always(0.6)} | plans))
    return Simulation([version], lambda _: ALONE, seed=seed)


def two(canary: dict[str, Any], share: float = 0.1, begins: int = WARM) -> Simulation:
    """A model with production v1 and from `begins` on a canary v2."""
    versions = [
        SimulatedVersion("m", "v1", since(begins, 500.0, 500.0 * (1 - share))),
        SimulatedVersion("m", "v2", **({"rate": since(begins, 0.0, 500.0 * share)} | canary)),
    ]
    canaried = {"m": ({"v1": 1 - share, "v2": share}, "v1")}
    return Simulation(versions, lambda second: ALONE if second < begins else canaried)


def events_of(alerts: list[Alert]) -> list[tuple[str, str, str]]:
    return [(alert.model_version, alert.rule, alert.state) for alert in alerts]


@pytest.mark.parametrize("seed", range(4))
def test_five_times_the_latency_at_500_requests_a_second_fires_within_five_seconds(seed: int) -> None:
    """And resolves once, a minute after it is over."""
    start = WARM + 17
    simulation = one(slow=since(start, 1.0, 5.0, start + 200), seed=seed)
    assert simulation.run(start) == []
    (fired,) = simulation.run(200)
    assert events_of([fired]) == [("v1", "latency_baseline", "firing")]
    assert simulation.seconds_of(fired) - start <= 5.0
    assert fired.baseline is not None
    assert fired.value > fired.threshold == pytest.approx(3 * fired.baseline)
    (resolved,) = simulation.run(400)
    assert (resolved.state, resolved.alert_id) == ("resolved", fired.alert_id)
    assert 60 <= simulation.seconds_of(resolved) - (start + 200) <= 65


def test_a_slow_model_is_not_taken_for_the_usual_one_while_it_fires() -> None:
    """It fires for as long as the version is slow, against the baseline of before."""
    simulation = one(60.0, slow=since(WARM, 1.0, 5.0))
    assert events_of(simulation.run(WARM + 5000)) == [("v1", "latency_baseline", "firing")]


@pytest.mark.parametrize(
    ("rate", "times", "within"), [(500.0, 5.0, 5), (100.0, 5.0, 31), (20.0, 2.7, 200), (2.0, 2.7, 1000)]
)
def test_fewer_requests_need_longer_windows(rate: float, times: float, within: int) -> None:
    """A long window detects a change that a short one cannot."""
    start = 1020 if rate > 10 else 3900
    simulation = one(rate, slow=since(start, 1.0, times), hit_share=always(0.0))
    assert simulation.run(start) == []
    (fired,) = simulation.run(within)
    assert fired.rule == "latency_baseline"


@pytest.mark.parametrize("stall_seconds", [1, 2])
def test_a_stall_of_a_second_is_no_alert(stall_seconds: int) -> None:
    """Every request of that second is ten times as slow."""
    simulation = one(slow=since(WARM, 1.0, 10.0, WARM + stall_seconds))
    assert simulation.run(WARM + 120) == []


def test_a_difference_that_nobody_feels_is_no_alert() -> None:
    """From half a millisecond to one and a half."""
    assert one(slow=since(WARM, 1.0, 3.5), median_ms=0.5).run(WARM + 300) == []


@pytest.mark.parametrize("share", [0.1, 0.02])
def test_a_canary_that_is_slower_than_production_fires(share: float) -> None:
    """A canary has no baseline of its own yet."""
    simulation = two({"median_ms": 30.0}, share)
    assert simulation.run(WARM + 120) == []
    (fired,) = simulation.run(300)
    assert events_of([fired]) == [("v2", "latency_production", "firing")]
    assert fired.value > fired.threshold > (fired.baseline or 0.0)


def test_a_canary_like_production_does_not_fire() -> None:
    """When both are slow, the other rule fires."""
    assert two({}).run(WARM + 600) == []


@pytest.mark.parametrize(("share", "within"), [(1.0, 9), (0.5, 16)])
def test_an_outage_fires_within_seconds(share: float, within: int) -> None:
    """Everything fails, or half of it."""
    simulation = one(50.0, error_share=since(120, 0.001, share), hit_share=always(0.0))
    assert simulation.run(120) == []
    (fired,) = simulation.run(within)
    assert (fired.rule, fired.severity, fired.window_seconds) == ("error_rate", "critical", 30)
    assert fired.value > fired.threshold == pytest.approx(0.2)


def test_bad_inputs_have_a_rule_of_their_own() -> None:
    """They use up no error budget; a canary that cannot predict what production predicts is seen by them."""
    simulation = two({"error_share": always(0.05), "inputs_are_bad": True})
    (fired,) = simulation.run(WARM + 300)
    assert events_of([fired]) == [("v2", "input_faults", "firing")]
    assert fired.severity == "warning"
    assert fired.value > fired.threshold == pytest.approx(0.02)


def test_a_few_bad_inputs_are_silent() -> None:
    """A sender's mistakes concern nobody else."""
    simulation = one(50.0, error_share=always(0.01), hit_share=always(0.0), inputs_are_bad=True)
    assert simulation.run(600) == []


@pytest.mark.parametrize("code", ["INVALID_INPUT", "INVALID_REQUEST"])
def test_what_senders_do_wrong_has_a_rule_of_its_own(code: str) -> None:
    """Half of the requests fail by it: no error budget is used, and the code and the worker are named."""
    (fired,) = one(error_share=since(WARM, 0.0, 0.5), hit_share=always(0.0), code=code).run(WARM + 60)
    assert events_of([fired]) == [("v1", "refused_requests", "firing")]
    assert fired.severity == "warning"
    assert fired.value > fired.threshold == pytest.approx(0.05)
    assert list(fired.codes) == [code]
    assert fired.workers == ["w"]


def test_errors_of_a_version_name_their_code() -> None:
    (fired,) = one(error_share=since(WARM, 0.0, 0.5), hit_share=always(0.0)).run(WARM + 60)
    assert (fired.rule, list(fired.codes), fired.workers) == ("error_rate", ["BACKEND_ERROR"], ["w"])


def test_deadlines_that_a_version_misses_use_up_its_error_budget() -> None:
    """It is too slow, or has too many requests: a rollback may help."""
    version = one(error_share=since(WARM, 0.0, 0.5), hit_share=always(0.0), code="DEADLINE_EXCEEDED")
    (fired,) = version.run(WARM + 60)
    assert (fired.rule, list(fired.codes)) == ("error_rate", ["DEADLINE_EXCEEDED"])


def test_a_canary_with_a_stricter_schema_fires_within_a_minute() -> None:
    """It refuses half of the inputs that production takes."""
    simulation = two({"error_share": always(0.5), "code": "INVALID_INPUT"})
    fired = simulation.run(WARM + 60)
    assert ("v2", "stricter_input", "firing") in events_of(fired)
    alert = next(each for each in fired if each.rule == "stricter_input")
    assert (alert.severity, alert.baseline, list(alert.codes)) == ("critical", 0.0, ["INVALID_INPUT"])
    assert "error_rate" not in {each.rule for each in fired}


def test_senders_that_are_wrong_for_both_versions_are_no_stricter_schema() -> None:
    """Production refuses as many."""
    simulation = two({"error_share": always(0.3), "code": "INVALID_INPUT"})
    simulation.versions[0].error_share = always(0.3)
    simulation.versions[0].code = "INVALID_INPUT"
    fired = simulation.run(WARM + 300)
    assert {(each.model_version, each.rule) for each in fired} == {
        ("v1", "refused_requests"),
        ("v2", "refused_requests"),
    }


@pytest.mark.parametrize("code", ["INVALID_REQUEST", "DEADLINE_EXCEEDED"])
def test_refused_requests_that_reach_no_version_count_against_all_of_the_model(code: str) -> None:
    """An invalid or overdue request has no version; a few of them are silent."""

    def simulation(refused: float) -> Simulation:
        nowhere = SimulatedVersion("m", "", since(WARM, 0.0, refused), error_share=always(1.0), code=code)
        return Simulation([SimulatedVersion("m", "v1", always(50.0)), nowhere], lambda _: ALONE)

    assert simulation(1.0).run(WARM + 300) == []
    fired = simulation(50.0).run(WARM + 60)
    assert events_of(fired) == [("", "refused_requests", "firing")]


def minute_by_minute(
    requests: int, errors: Callable[[int], int], minutes: int
) -> tuple[int, Evaluation] | None:
    """The minute in which the rule is breached first, and its evaluation."""
    series = VersionSeries("v1")
    view = ModelView("m", {"v1": series}, {"v1": 1.0})
    for minute in range(minutes):
        for part in range(6):
            failed = errors(minute) if part == 0 else 0
            at = NOON + timedelta(minutes=minute, seconds=10 * part)
            series.add(delta(at=at, requests=requests, errors={"INTERNAL": failed}), at.timestamp() + 1)
        evaluation = error_rate(view, "v1", series, ErrorRate(), NOON.timestamp() + 60 * minute + 59)
        if evaluation is not None and evaluation.breached:
            return minute, evaluation
    return None


@pytest.mark.parametrize(("percent", "window", "within"), [(12, 3600, 40), (5, 21_600, 230)])
def test_the_faster_the_budget_goes_the_sooner_errors_fire(percent: int, window: int, within: int) -> None:
    """After six good hours: 7.2% within the last hour, or 3% within all six."""
    found = minute_by_minute(100, lambda minute: 6 * percent if minute >= 360 else 0, 720)
    assert found is not None
    minute, evaluation = found
    assert evaluation.window_seconds == window
    assert within / 2 <= minute - 360 <= within


def test_errors_within_the_budget_do_not_fire() -> None:
    """The objective is 99.5% over thirty days: a day with five times as many errors does not alert."""
    assert minute_by_minute(100, lambda _: 15, 720) is None


def test_few_requests_are_no_rate() -> None:
    """Half of twelve requests in an hour fail."""
    assert minute_by_minute(0, lambda minute: int(minute % 10 == 0), 360) is None


def test_requests_that_reach_no_version_count_against_all_of_the_model() -> None:
    """One sender of unreadable requests is not an outage; unreadable requests of all senders are."""

    def simulation(refused: float) -> Simulation:
        nowhere = SimulatedVersion("m", "", since(WARM, 0.0, refused), error_share=always(1.0))
        return Simulation([SimulatedVersion("m", "v1", always(50.0)), nowhere], lambda _: ALONE)

    assert simulation(1.0).run(WARM + 300) == []
    fired = simulation(50.0).run(WARM + 60)
    assert events_of(fired) == [("", "error_rate", "firing")]


def test_hits_that_collapse_fire_and_resolve() -> None:
    """Redis is unavailable for some minutes; the backend infers instead."""
    start = 1300
    hits = since(start, 0.6, 0.0, start + 300)
    simulation = one(hit_share=hits)
    assert simulation.run(start) == []
    fired = simulation.run(60)
    assert events_of(fired) == [("v1", "cache_hits", "firing")]
    assert fired[0].baseline == pytest.approx(0.6, abs=0.02)
    assert events_of(simulation.run(500)) == [("v1", "cache_hits", "resolved")]


def test_a_version_that_gets_other_users_may_fill_its_cache_first() -> None:
    """Its share of hits falls to zero at the promotion, as it should."""
    promoted = WARM + 1500

    def hits(at: np.ndarray) -> np.ndarray:
        return np.where(at < promoted, 0.6, 0.6 * (1 - np.exp(-np.maximum(at - promoted, 0) / 300)))

    simulation = two({"hit_share": hits})
    both = simulation.routes
    simulation.routes = lambda second: both(second) if second < promoted else {"m": ({"v2": 1.0}, "v2")}
    assert simulation.run(promoted + 1500) == []


def test_a_version_with_weight_that_gets_nothing_fires_until_it_gets_something() -> None:
    """The other versions still get their requests."""
    start, end = 3700, 4000
    simulation = two({"rate": since(start, 50.0, 0.0, end)}, begins=0)
    simulation.routes = lambda _: {"m": ({"v1": 0.9, "v2": 0.1}, "v1")}
    assert simulation.run(start) == []
    (fired,) = simulation.run(end - start)
    assert events_of([fired]) == [("v2", "no_traffic", "firing")]
    assert 60 <= simulation.seconds_of(fired) - start <= 65
    (resolved,) = simulation.run(200)
    assert (resolved.alert_id, resolved.state) == (fired.alert_id, "resolved")


def test_a_version_whose_weight_is_taken_is_not_missed() -> None:
    """After a rollback it gets no requests, as it should; its alerts resolve."""
    start = 3700
    simulation = two({"rate": since(start, 50.0, 0.0)}, begins=0)
    simulation.routes = lambda second: (
        {"m": ({"v1": 0.9, "v2": 0.1}, "v1")} if second < start + 100 else ALONE
    )
    assert events_of(simulation.run(start + 600)) == [
        ("v2", "no_traffic", "firing"),
        ("v2", "no_traffic", "resolved"),
    ]
    assert two({"rate": always(0.0)}).run(WARM + 600) == []


def test_a_model_that_falls_silent_at_once_fires() -> None:
    """Every version of it."""
    start = 3700
    simulation = Simulation([SimulatedVersion("m", "v1", since(start, 5.0, 0.0))], lambda _: ALONE)
    (fired,) = simulation.run(start + 3000)
    assert (fired.rule, fired.state) == ("no_traffic", "firing")
    assert 60 <= simulation.seconds_of(fired) - start <= 65


@pytest.mark.parametrize(
    ("count", "rule"), [("load_failures", "load_failure"), ("breaker_opened", "breaker_opened")]
)
def test_what_happened_once_fires_at_once_and_resolves_two_minutes_later(count: str, rule: str) -> None:
    """A worker retries a failed load each ten seconds, so the alert keeps firing."""
    simulation = one(5.0)
    simulation.run(10)
    happened = next(iter(SimulatedVersion("m", "v1", always(5.0)).deltas(np.random.default_rng(1), 10, 1)))
    assert happened is not None
    for second in range(0, 60, 10):
        simulation.engine.observe([happened.model_copy(update={count: 1})], START + 10 + second)
        events = simulation.run(10)
        assert events_of(events) == ([] if second else [("v1", rule, "firing")])
    assert events_of(simulation.run(200)) == [("v1", rule, "resolved")]


def test_a_rollback_target_that_cannot_be_loaded_is_a_warning() -> None:
    """It takes no traffic. The alert of a version that lost its traffic resolves, and no other version has one."""
    simulation = two({"rate": always(0.0)})
    weights = {"v1": 0.9, "v2": 0.1}
    simulation.routes = lambda _: {"m": (weights, "v1")}

    def fail() -> None:
        happened = next(
            iter(SimulatedVersion("m", "v2", always(5.0)).deltas(np.random.default_rng(1), simulation.now, 1))
        )
        assert happened is not None
        failed = happened.model_copy(update={"load_failures": 1})
        simulation.engine.observe([failed], START + simulation.now)

    simulation.run(10)
    fail()
    (fired,) = simulation.run(10)
    assert (fired.rule, fired.severity) == ("load_failure", "critical")
    weights = {"v1": 1.0}
    assert events_of(simulation.run(70)) == [("v2", "load_failure", "resolved")]
    fail()
    assert events_of(simulation.run(70)) == []
    simulation.rollback_target = "v2"
    (fired,) = simulation.run(10)
    assert (fired.rule, fired.severity, fired.state) == ("rollback_target", "warning", "firing")
    simulation.rollback_target = None
    assert events_of(simulation.run(70)) == [("v2", "rollback_target", "resolved")]


def test_rules_of_a_model_are_its_own() -> None:
    """A disabled rule does not fire, and its alert resolves."""
    simulation = one(slow=since(WARM, 1.0, 5.0))
    simulation.engine.model_rules = {"other": ModelRules(latency_baseline=LatencyBaseline(enabled=False))}
    assert events_of(simulation.run(WARM + 60)) == [("v1", "latency_baseline", "firing")]
    simulation.engine.model_rules = {"m": ModelRules(latency_baseline=LatencyBaseline(enabled=False))}
    assert events_of(simulation.run(1)) == [("v1", "latency_baseline", "resolved")]
    simulation.engine.model_rules = {"m": ModelRules(latency_baseline=LatencyBaseline(severity="info"))}
    simulation.versions[0].slow = always(5.0)
    assert [alert.severity for alert in simulation.run(60)] == ["info"]


def test_a_version_without_requests_has_no_verdicts_that_fire() -> None:
    """An empty series has nothing to evaluate."""
    simulation = one(0.0)
    simulation.engine._views["m"].series["v1"] = VersionSeries("v1")
    assert simulation.run(100) == []


def test_an_objective_that_no_errors_can_miss_is_refused() -> None:
    """With an objective of 80% the budget is a fifth, and the share of errors cannot exceed five times that."""
    with pytest.raises(ValueError, match="a factor must be less than 5"):
        ErrorRate(objective_percent=80)
