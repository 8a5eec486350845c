"""streams/cli/overview.py: a line for each model."""

from registry.snapshot import Snapshot
from registry.worker_heartbeat import WorkerHeartbeat
from schemas.events import Alert
from streams.cli.overview import RATE_SECONDS, ModelOverview, Overview, overview
from tests.support.registry.memory_registry import model_of


def alert(model_name: str, rule: str) -> Alert:
    return Alert.model_validate(
        {
            "alert_id": f"{model_name}-{rule}",
            "scope": "model" if model_name else "global",
            "model_name": model_name,
            "model_version": "",
            "rule": rule,
            "severity": "critical",
            "state": "firing",
            "value": 1.0,
            "threshold": 0.5,
            "window_seconds": 60.0,
            "at": "2026-11-29T22:00:00Z",
        }
    )


def test_each_model_has_its_split_rate_alerts_and_workers() -> None:
    """A model that nobody counted has no rate, which differs from one without requests."""
    models = {
        "b": model_of("b", 4, {"v1": 75, "v2": 25}, canaries=["v2"]),
        "a": model_of("a", 1, {}),
        "c": model_of("c", 2, {"v1": 100}),
    }
    heartbeats = [
        (WorkerHeartbeat("w1", "x", 7), 0.1),
        (WorkerHeartbeat("w2", "x", 7, {"b": "v2 cannot be loaded"}), 0.1),
        (WorkerHeartbeat("gone", "x", 7), 1000.0),
    ]
    seen = overview(
        Snapshot(7, models),
        {"b": 90, "c": 0},
        [alert("b", "error_rate"), alert("b", "latency"), alert("", "consumer_lag")],
        heartbeats,
    )
    assert seen == Overview(
        [
            ModelOverview("a", 1, None, {}, None, 0, 2, 0),
            ModelOverview("b", 4, "v1", {"v2": 25.0}, 90 / RATE_SECONDS, 2, 1, 1),
            ModelOverview("c", 2, "v1", {}, 0.0, 0, 2, 0),
        ],
        global_alerts=1,
        live_workers=2,
    )
