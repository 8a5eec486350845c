"""streams/dashboard/state.py: the document that a page is drawn from."""

from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest

from registry.assignment import Change
from registry.lifecycle import apply
from registry.snapshot import RegisteredModel
from registry.worker_heartbeat import WorkerHeartbeat
from schemas.events import Alert, JsonObject
from schemas.models import Action, PromotionEvent
from schemas.windows import Window, total
from streams.dashboard.registry_reader import MODELS_SHOWN, chosen
from streams.dashboard.state import (
    CHANGES_LISTED,
    COLOURS,
    SPAN_SECONDS,
    WINDOW_SECONDS,
    Seen,
    SeenModel,
    last_whole_window,
    page_state,
    point_of,
    window_number,
)
from tests.support.metrics.deltas import delta
from tests.support.promotions.events import event, spec

NOW = datetime(2026, 11, 25, 12, 0, 5, tzinfo=UTC)
LAST = last_whole_window(NOW)
PLACES = SPAN_SECONDS // WINDOW_SECONDS


def model(*events: PromotionEvent) -> RegisteredModel:
    """The model after these events."""
    now: RegisteredModel | None = None
    for one in events:
        now = apply(now, one, NOW).model
    assert now is not None
    return now


CANARY = (
    event("register", model=spec("v1")),
    event("promote", version="v1"),
    event("register", model=spec("v2")),
    event("canary", version="v2", weight=12.5),
)


def window(number: int, version: str = "v1", **fields: Any) -> Window:
    """The window of a version with one delta."""
    start = datetime.fromtimestamp(number * WINDOW_SECONDS, UTC)
    return Window(
        resolution_seconds=WINDOW_SECONDS,
        start=start,
        model_name="m",
        model_version=version,
        totals=total([delta(at=start, model_version=version, **fields)]),
    )


def change(revision: int, at: datetime) -> Change:
    now = model(*CANARY)
    state = {"weights": {"v1": 100.0}, "statuses": {"v1": "production"}, "salt": "m"}
    return Change(f"e{revision}", revision, Action.PROMOTE, "ann", "better", None, state, now.route, at)


def shown(
    of: RegisteredModel, *windows: Window, changes: tuple[Change, ...] = (), at: datetime = NOW
) -> JsonObject:
    """The part of the document about one model, as a page gets it."""
    points = {(window_number(one.start), one.model_version): point_of(one) for one in windows}
    newest = [one for one in windows if window_number(one.start) >= last_whole_window(at)]
    document = whole(models={"m": SeenModel(of, changes, points, newest)}, at=at)
    (one,) = document["models"]
    found: JsonObject = one
    return found


def whole(**fields: Any) -> JsonObject:
    seen = Seen(
        **{
            "at": NOW,
            "epoch": 9,
            "model_names": ["m"],
            "models": {},
            "alerts": [],
            "heartbeats": [],
            **fields,
        }
    )
    document: JsonObject = orjson.loads(orjson.dumps(page_state(seen, ["m", "gone"], may_promote=False)))
    return document


def test_an_empty_registry_has_a_document_too() -> None:
    assert whole(model_names=[]) == {
        "at_ms": int(NOW.timestamp() * 1000),
        "epoch": 9,
        "window_ms": 10_000,
        "span_ms": 900_000,
        "may_promote": False,
        "model_names": [],
        "models": [],
        "alerts": [],
        "workers": [],
        "reasons": [],
    }


def test_a_version_is_shown_with_its_share_and_its_lines() -> None:
    """A line has a value for each complete window of the span, and None where nothing was counted."""
    found = shown(
        model(*CANARY),
        window(LAST - 1, latencies=(1.0, 2.0, 4.0), cache_hits=2, cache_misses=1),
        window(LAST, latencies=(8.0,) * 20, errors={"INTERNAL": 5}, ok=15, cache_hits=0, cache_misses=0),
    )
    assert (found["model_name"], found["revision"], found["rollback"]) == ("m", 4, {"stops": ["v2"]})
    assert found["first_ms"] == (LAST - PLACES + 2) * 10_000
    first, second = found["versions"]
    assert [
        (each["version"], each["status"], each["percent"], each["colour"]) for each in found["versions"]
    ] == [
        ("v1", "production", 87.5, 0),
        ("v2", "canary", 12.5, 1),
    ]
    assert {len(line) for line in first["lines"].values()} == {PLACES}
    assert first["lines"]["requests_per_second"][-3:] == [None, 0.3, 2.0]
    assert first["lines"]["p50_ms"][-2] == pytest.approx(2.0, rel=0.012)
    assert first["lines"]["p99_ms"][-2:] == [4.0, 8.0]
    assert first["lines"]["cache_hit_share"][-2:] == [0.6667, None]
    assert first["lines"]["error_share"][-2:] == [0.0, 0.25]
    assert first["errors"] == {"INTERNAL": 5}
    # The other one was not asked while this one was: that is a rate, and no latency.
    assert second["lines"]["requests_per_second"][-3:] == [None, 0.0, 0.0]
    assert second["lines"]["p50_ms"] == [None] * PLACES
    assert (second["now"], second["errors"]) == (None, {})


def test_now_is_the_last_whole_window_and_what_has_come_since() -> None:
    """Except the rate: how much of an incomplete window is counted is unknown."""
    found = shown(
        model(*CANARY),
        window(LAST - 1, latencies=(1.0,) * 50),
        window(LAST, latencies=(1.0,) * 20),
        window(LAST + 1, latencies=(4.0,) * 80),
    )
    now = found["versions"][0]["now"]
    assert now["requests_per_second"] == 2.0
    assert now["p50_ms"] == pytest.approx(4.0, rel=0.011)
    assert len(found["versions"][0]["lines"]["p50_ms"]) == PLACES
    assert found["versions"][0]["lines"]["p50_ms"][-1] == pytest.approx(1.0, rel=0.011)


def test_a_window_is_whole_when_its_last_delta_has_come() -> None:
    end = datetime(2026, 11, 25, 12, 0, 10, tzinfo=UTC)
    assert last_whole_window(end + timedelta(seconds=1)) == window_number(end) - 2
    assert last_whole_window(end + timedelta(seconds=2)) == window_number(end) - 1


def test_requests_without_a_version_are_shown_last_in_a_colour_of_their_own() -> None:
    found = shown(model(*CANARY), window(LAST, "", errors={"NO_ACTIVE_VERSION": 1}, ok=0))
    assert [each["version"] for each in found["versions"]] == ["v1", "v2", ""]
    last = found["versions"][-1]
    assert (last["status"], last["percent"], last["colour"]) == ("", 0.0, COLOURS)
    assert last["errors"] == {"NO_ACTIVE_VERSION": 1}


def test_old_versions_are_shown_while_they_are_on_the_time_axis() -> None:
    """The rollback target is always shown, and the last few versions in staging."""
    events = [event("register", model=spec(f"v{number}")) for number in range(1, 10)]
    life = model(
        *events,
        event("promote", version="v1"),
        event("promote", version="v2"),
        event("archive", version="v3"),
    )
    versions = {each["version"]: each for each in shown(life)["versions"]}
    assert list(versions) == ["v1", "v2", "v6", "v7", "v8", "v9"]
    assert [each["colour"] for each in versions.values()] == [0, 1, 5, 6, 7, 0]
    counted = [each["version"] for each in shown(life, window(LAST, "v3"))["versions"]]
    assert counted == ["v1", "v2", "v3", "v6", "v7", "v8", "v9"]
    gone = window(LAST - PLACES, "v3")
    assert "v3" not in [each["version"] for each in shown(life, gone)["versions"]]


def test_a_rollback_is_offered_where_it_would_do_something() -> None:
    fresh = CANARY[:2]
    assert shown(model(*fresh))["rollback"] is None
    promoted = model(*CANARY[:3], event("promote", version="v2"))
    assert shown(promoted)["rollback"] == {"returns_to": "v1"}


def test_changes_are_marked_while_they_are_on_the_time_axis_and_the_last_ones_are_told_always() -> None:
    old = [change(revision, NOW - timedelta(days=1)) for revision in range(1, 8)]
    assert [each["revision"] for each in shown(model(*CANARY), changes=tuple(old))["changes"]] == [7, 6, 5, 4]
    new = [change(revision, NOW - timedelta(minutes=1)) for revision in range(8, 14)]
    listed = shown(model(*CANARY), changes=(*old, *new))["changes"]
    assert [each["revision"] for each in listed] == [13, 12, 11, 10, 9, 8]
    assert len(listed) > CHANGES_LISTED
    assert listed[0] == {
        "revision": 13,
        "at_ms": int((NOW - timedelta(minutes=1)).timestamp() * 1000),
        "action": "promote",
        "what": "v1 0 → 100%",
        "actor": "ann",
        "reason": "better",
    }


def test_alerts_are_in_the_order_of_their_urgency() -> None:
    def alert(alert_id: str, severity: str, seconds: int) -> Alert:
        return Alert(
            alert_id=alert_id,
            model_name="m",
            model_version="v2",
            rule="error_rate",
            severity=severity,
            state="firing",
            value=0.25,
            threshold=0.2,
            window_seconds=30.0,
            at=NOW + timedelta(seconds=seconds),
        )

    alerts = whole(alerts=[alert("a", "warning", 0), alert("b", "critical", 2), alert("c", "critical", 1)])[
        "alerts"
    ]
    assert [each["alert_id"] for each in alerts] == ["c", "b", "a"]
    assert alerts[0]["text"] == "m v2: 25.0% of the requests of the last 30 s failed, threshold 20.0%"
    assert alerts[0]["since_ms"] == int((NOW + timedelta(seconds=1)).timestamp() * 1000)


def test_workers_tell_how_fresh_they_are() -> None:
    """Silent workers are shown for a while, and fade."""
    workers = whole(
        heartbeats=[
            (WorkerHeartbeat("w1", "b1", 9), 0.21),
            (WorkerHeartbeat("w2", "b2", 7, {"m": "v2 cannot be loaded"}), 4.9),
            (WorkerHeartbeat("w3", "b3", 9), 14.0),
            (WorkerHeartbeat("w5", "b5", 9), 61.0),
            (WorkerHeartbeat("w4", "b4", 3), 700.0),
        ]
    )["workers"]
    assert [each["worker"] for each in workers] == ["w1", "w2", "w3", "w5"]
    assert [each["is_live"] for each in workers] == [True, True, False, False]
    assert [each["is_faded"] for each in workers] == [False, False, False, True]
    assert [each["epochs_behind"] for each in workers] == [0, 2, 0, 0]
    assert [each["models_behind"] for each in workers] == [0, 1, 0, 0]
    assert workers[0]["age_seconds"] == 0.2


def test_a_page_shows_the_models_it_names_or_the_first_ones() -> None:
    names = [f"m{number:02}" for number in range(30)]
    assert chosen((), names) == tuple(names[:MODELS_SHOWN])
    assert chosen(("m20", "nobody", "m03"), names) == ("m20", "m03")
    assert len(chosen(tuple(names), names)) == MODELS_SHOWN
