"""streams/monitoring/rules/global_rules.py: lag, workers and missing metrics, from samples over time."""

from collections.abc import Callable, Sequence
from typing import Any

from schemas.alert_rules import GLOBAL, GlobalRules
from schemas.events import Alert
from streams.kafka.offset_tracker import GroupOffsets
from streams.monitoring.engine import AlertEngine
from streams.monitoring.rules.evaluation import AlertKey
from streams.monitoring.rules.global_rules import GlobalView, Sample, WorkerStatus

EACH_SECONDS = 5.0


def sample(
    at: float,
    *,
    committed: int = 0,
    end: int = 0,
    workers: Sequence[WorkerStatus] = (),
    epoch: int = 1,
    missing_deltas: int = 0,
) -> Sample:
    return Sample(
        at, {0: GroupOffsets(committed, end), 1: GroupOffsets(end, end)}, workers, epoch, missing_deltas
    )


def status(
    age_seconds: float = 1.0,
    *,
    worker: str = "w",
    boot_id: str = "b",
    epoch: int = 1,
    behind: Sequence[str] = (),
) -> WorkerStatus:
    return WorkerStatus(worker, boot_id, age_seconds, epoch, behind)


def watched(seconds: float, seen: Callable[[float], dict[str, Any]]) -> list[Alert]:
    """The events of a span with a sample every five seconds."""
    engine = AlertEngine()
    alerts = []
    at = 0.0
    while at <= seconds:
        alerts += engine.evaluate_global(sample(at, **seen(at)))
        at += EACH_SECONDS
    return alerts


def events_of(alerts: Sequence[Alert]) -> list[tuple[str, str, float]]:
    assert all((alert.model_name, alert.model_version) == ("", "") for alert in alerts)
    return [(alert.rule, alert.state, alert.at.timestamp()) for alert in alerts]


def test_the_lag_is_the_age_of_the_oldest_request_that_is_not_answered() -> None:
    """A hundred requests arrive each second, and ever fewer are answered."""
    view = GlobalView()
    for second in range(0, 305, 5):
        view.add(sample(second, committed=50 * second, end=100 * second))
    evaluation = view.evaluate(GlobalRules())[AlertKey(GLOBAL, "", "consumer_lag")]
    # The one at 15000 was written when 150 seconds had gone.
    assert 300 - 150 - EACH_SECONDS <= evaluation.value <= 300 - 150 + EACH_SECONDS


def test_a_lag_that_is_old_and_grows_fires_and_resolves_when_it_is_worked_off() -> None:
    """The workers stop from second 100 to 300, and then need a minute."""

    def seen(at: float) -> dict[str, Any]:
        end = int(100 * at)
        done = end if at < 100 else 10_000 if at < 300 else min(end, 10_000 + int((at - 300) * 500))
        return {"committed": done, "end": end}

    fired, resolved = events_of(watched(500, seen))
    assert fired[:2] == ("consumer_lag", "firing")
    assert 130 <= fired[2] <= 150
    assert resolved[:2] == ("consumer_lag", "resolved")
    assert 360 <= resolved[2] <= 450


def test_a_backlog_that_shrinks_does_not_fire() -> None:
    """Somebody sent the requests of an hour at once; they are being answered."""

    def seen(at: float) -> dict[str, Any]:
        return {"committed": int(1000 * at), "end": 200_000 + int(10 * at)}

    assert watched(400, seen) == []


def test_nothing_to_do_is_no_lag() -> None:
    """Everything is answered, and no request arrives."""
    assert watched(1000, lambda _: {"committed": 7, "end": 7}) == []


def test_a_worker_that_died_fires_until_it_is_replaced_or_forgotten() -> None:
    """It sends no heartbeats any more; a worker that stopped cleanly has removed its row."""
    alive = status(worker="other")

    def dies(at: float) -> dict[str, Any]:
        return {"workers": [alive, status(max(1.0, at - 100))]}

    fired, resolved = events_of(watched(1000, dies))
    assert fired == ("stale_workers", "firing", 125.0)
    assert resolved[1:] == ("resolved", 100 + 600 + 60)

    def restarts(at: float) -> dict[str, Any]:
        anew = [status(1.0, boot_id="c")] if at >= 110 else []
        return {"workers": [alive, status(max(1.0, at - 100)), *anew]}

    assert watched(1000, restarts) == []


def test_a_worker_that_does_not_follow_the_registry_fires() -> None:
    """A worker that stays behind; not one that is a little late with a promotion each minute."""

    def stuck(at: float) -> dict[str, Any]:
        return {"epoch": 1 if at < 100 else 2, "workers": [status()]}

    assert events_of(watched(200, stuck)) == [("stale_workers", "firing", 170.0)]

    def busy(at: float) -> dict[str, Any]:
        epoch = int(at // 60)
        return {"epoch": epoch, "workers": [status(epoch=int(max(0, at - 20) // 60))]}

    assert watched(1000, busy) == []

    def restored(at: float) -> dict[str, Any]:
        epoch = 90 if at < 300 else 3
        return {"epoch": epoch, "workers": [status(epoch=epoch)]}

    assert watched(1000, restored) == []


def test_a_worker_that_loads_for_ten_minutes_fires() -> None:
    """A model of some gigabytes takes a while to load, but not ten minutes."""

    def loads(at: float) -> dict[str, Any]:
        return {"workers": [status(behind=("m",) if at >= 100 else ())]}

    assert events_of(watched(800, loads)) == [("stale_workers", "firing", 710.0)]
    assert watched(800, lambda at: {"workers": [status(behind=("m",) if at % 300 > 5 else ())]}) == []


def test_deltas_that_never_come_fire_and_those_on_their_way_do_not() -> None:
    """Deltas that were missing before the monitor started do not count; ten minutes later the alert resolves."""

    def seen(at: float) -> dict[str, Any]:
        on_their_way = 3 if at % 20 == 0 else 0
        return {"missing_deltas": 40 + on_their_way + (5 if at >= 200 else 0)}

    fired, resolved = events_of(watched(1200, seen))
    assert fired[:2] == ("delta_loss", "firing")
    assert 255 <= fired[2] <= 265
    assert resolved[:2] == ("delta_loss", "resolved")
    assert 800 <= resolved[2] <= 1000
    assert watched(1200, lambda at: {"missing_deltas": 40 + (3 if at % 20 == 0 else 0)}) == []


def test_the_value_of_missing_deltas_is_how_many() -> None:
    """Within the window."""
    (fired,) = watched(300, lambda at: {"missing_deltas": 0 if at < 100 else 7})
    assert (fired.value, fired.severity) == (7.0, "warning")
