"""streams/dashboard/worker_list.py: what live workers answer by, and what they cannot load."""

from datetime import UTC, datetime

from registry.assignment import Change
from registry.lifecycle import apply
from registry.snapshot import RegisteredModel
from registry.worker_heartbeat import WorkerHeartbeat
from schemas.models import PromotionEvent
from streams.dashboard.worker_list import reasons_of, served_percents
from tests.support.promotions.events import event, spec

NOW = datetime(2026, 11, 25, 12, 0, 5, tzinfo=UTC)
DIGEST = "0123456789abcdef" * 4
BROKEN = f"broken cannot be loaded: it has {DIGEST}"


def changed(*events: PromotionEvent) -> tuple[RegisteredModel, list[Change]]:
    """The model after these events, and the changes that they made."""
    model: RegisteredModel | None = None
    changes = []
    for one in events:
        model = apply(model, one, NOW).model
        changes.append(Change(one.event_id, model.revision, one.action, "", "", None, {}, model.route, NOW))
    assert model is not None
    return model, changes


MODEL, CHANGES = changed(
    *(event("register", model=spec(version)) for version in ("v1", "v2", "broken")),
    event("promote", version="v1"),
    event("canary", version="v2", weight=25),
    event("promote", version="broken"),
)


def behind(worker: str, revision: int = 5) -> tuple[WorkerHeartbeat, float]:
    return WorkerHeartbeat(worker, "b", 9, {"m": BROKEN}, {"m": revision}, {"m": {"broken": "bad"}}), 0.5


def test_the_band_shows_what_the_workers_answer_by() -> None:
    """The mean over live workers of the newest route and of older ones. Without workers it is the registry's."""
    current = WorkerHeartbeat("w0", "b", 9), 0.5
    silent = WorkerHeartbeat("w9", "b", 3, {"m": BROKEN}, {"m": 4}), 14.0
    assert served_percents(MODEL, CHANGES, []) == {"broken": 100.0}
    assert served_percents(MODEL, CHANGES, [silent]) == {"broken": 100.0}
    assert served_percents(MODEL, CHANGES, [behind("w1")]) == {"v1": 75.0, "v2": 25.0}
    assert served_percents(MODEL, CHANGES, [behind("w1"), current]) == {
        "v1": 37.5,
        "v2": 12.5,
        "broken": 50.0,
    }
    assert served_percents(MODEL, CHANGES, [behind("w1", 4), silent]) == {"v1": 100.0}
    assert served_percents(MODEL, CHANGES[-1:], [behind("w1", 2)]) == {"broken": 100.0}


def test_a_reason_is_shown_once_for_all_its_workers() -> None:
    """With a short digest. What a silent worker said last is no news."""
    target = WorkerHeartbeat("w3", "b", 9, unloadable={"m": {"v1": "its file is gone"}})
    silent = WorkerHeartbeat("w9", "b", 3, {"m": "another reason"}), 14.0
    found = reasons_of([behind("w2"), behind("w1"), (target, 0.5), silent])
    assert found == [
        {
            "model_name": "m",
            "reason": "broken cannot be loaded: it has 01234567…; revision 5 is served instead",
            "is_behind": True,
            "workers": ["w1", "w2"],
        },
        {
            "model_name": "m",
            "reason": "the rollback target v1 cannot be loaded: its file is gone",
            "is_behind": False,
            "workers": ["w3"],
        },
    ]
