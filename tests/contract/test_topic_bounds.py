"""Whatever a topic's record holds, its reader takes it within bounds or counts it as unreadable, and nothing else.

What a reader takes is stored in a real PostgreSQL and read back.
"""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from registry.alert_events import AlertEvents
from registry.broadcast import read_hint
from registry.metric_windows import MetricWindows
from registry.postgres import Database
from registry.prediction_log import PredictionLog
from registry.store import RegistryStore
from schemas.errors import HeadraceError
from schemas.events import Alert, MetricsDelta, Outcome, PredictResponse, RouteHint
from schemas.models import PromotionEvent, PromotionResult, stored_form
from schemas.windows import RESOLUTIONS_SECONDS, read_delta, total
from schemas.wire import object_or_none
from streams.clients.predict_client import _parse_response
from streams.clients.promotion_client import _parse_result
from streams.headrace_client.pending_replies import PendingReplies, ReplyForm
from streams.kafka.offset_tracker import Partition, Slice, SliceLimits
from streams.monitoring.engine import AlertEngine
from streams.monitoring.live_view import LiveView
from streams.monitoring.monitor import Monitor
from streams.prediction_log.rows import RowReader
from streams.prediction_log.writer import Writer
from streams.promotions.control import Control
from streams.promotions.events import read_event
from tests.support.metrics.deltas import delta
from tests.support.models.served_versions import record_of
from tests.support.near_json import near
from tests.support.promotions.events import document as promotion
from tests.support.promotions.events import spec
from tests.support.worker.prediction_rows import headers_of, response

# The fixtures of the real thing are chosen at run time, and the stack starts for fixtures known before.
pytestmark = pytest.mark.usefixtures("stack")

NOW = datetime.now(UTC)
NOW_MS = int(NOW.timestamp() * 1000)
ALERT = {
    "alert_id": "a1",
    "scope": "model",
    "model_name": "m",
    "model_version": "v1",
    "rule": "error_rate",
    "severity": "critical",
    "state": "firing",
    "value": 0.5,
    "threshold": 0.1,
    "baseline": 0.01,
    "window_seconds": 30.0,
    "at": NOW.isoformat(),
}
RESULT = {
    "event_id": "e1",
    "model_name": "m",
    "action": "promote",
    "status": "rejected",
    "revision": 1,
    "epoch": 2,
    "route": {"salt": "s", "ranges": [{"start": 0, "end": 10_000, "version": "v1"}]},
    "error": {"code": "BAD_WEIGHT", "message": "no"},
    "applied_at": NOW.isoformat(),
    "actor": "op",
}
OUTCOME = {
    "outcome_id": "o1",
    "model_name": "m",
    "user_id": "u",
    "request_id": "r",
    "name": "click",
    "value": 1.0,
    "occurred_at": NOW.isoformat(),
}
HINT = {"model_name": "m", "revision": 1, "epoch": 2}
EVENT_ID = "the-event"
EVENTS = [
    promotion("promote", "m", event_id=EVENT_ID, version="v1", reason="good", expected_revision=1),
    promotion("split", "m", event_id=EVENT_ID, weights={"v1": 20.5, "v2": 10}),
    promotion("reshuffle", "m", event_id=EVENT_ID, salt="s2"),
    promotion(
        "register",
        "m",
        event_id=EVENT_ID,
        model=spec("v1", created_by="op", metrics={"accuracy": 0.9}, example={"input": {"x": 1}}),
    ),
]

with_postgresql = settings(
    max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)


@pytest.fixture
async def opened(database: str) -> AsyncIterator[Database]:
    """An empty registry."""
    opened = await Database.connect(database)
    yield opened
    await opened.close()


async def _execute(database: Database, sql: str, *arguments: Any) -> Any:
    async with database.connection() as connection:
        return await connection.fetch(sql, *arguments)


def _slice(value: bytes, **fields: Any) -> Slice:
    return Slice(
        Partition("t", 0), [record_of(value, **fields)], 1, received_at=0.0, limits=SliceLimits(1, 1)
    )


class Watch:
    """An alert watch that keeps nothing in PostgreSQL; the engine is the real one."""

    def __init__(self) -> None:
        self.turn = asyncio.Lock()
        self.attempts = 0
        self._engine = AlertEngine()
        self._live = LiveView(0.0)

    async def begin(self, model_names: Iterable[str]) -> None:
        for name in model_names:
            self._engine.begin(name, [])

    def observe(self, _: int, deltas: Sequence[MetricsDelta]) -> None:
        now = time.time()
        self._engine.observe(deltas, now)
        for name in self._engine.models:
            self._engine.evaluate(name, now)
        for each in deltas:
            self._live.add(each, 1.0)
        self._live.figures(2.0)


class Registered:
    """A registry that has the model `m` alone."""

    async def unregistered(self, model_names: Collection[str]) -> Collection[str]:
        return set(model_names) - {"m", ""}


@with_postgresql
@given(value=near(orjson.loads(delta(3, at=NOW, errors={"INTERNAL": 1}).model_dump_json())))
async def test_deltas(opened: Database, value: bytes) -> None:
    """Counted in each window as sent, or counted as unreadable."""
    await _execute(opened, "DELETE FROM metric_windows")
    await _execute(opened, "DELETE FROM metric_marks")
    windows = MetricWindows(opened)
    monitor = Monitor(windows, Watch(), Registered())  # type: ignore[arg-type]  # without PostgreSQL
    await monitor.process(_slice(value, timestamp=NOW_MS))
    stored = [
        window.totals
        for name in ("m", "")
        for resolution in RESOLUTIONS_SECONDS
        for window in await windows.read(name, resolution, NOW - timedelta(days=2), NOW + timedelta(days=2))
    ]
    if monitor.unreadable:
        assert stored == []
    else:
        assert stored == [total([read_delta(value, NOW_MS)])] * len(RESOLUTIONS_SECONDS)
        # Added to itself it is readable again, whatever its counts.
        again = read_delta(value, NOW_MS).model_copy(update={"seq": 2**63 - 1, "boot_id": "again"})
        await windows.add("t", 0, [again])
        assert len(await windows.read("m", 10, NOW - timedelta(days=2), NOW + timedelta(days=2))) <= 1
        await windows.missing_deltas("t")


@with_postgresql
@given(value=st.sampled_from(EVENTS).flatmap(near), chosen=st.uuids())
async def test_promotion_events(opened: Database, value: bytes, chosen: uuid.UUID) -> None:
    """Each gets one result that its readers can read; what is applied is in the registry as it was sent."""
    value = value.replace(EVENT_ID.encode(), str(chosen).encode())
    store = RegistryStore(opened)
    results: list[PromotionResult] = []

    async def send(result: PromotionResult, *_: object) -> None:
        results.append(result)

    class Hints:
        async def send(self, hint: RouteHint) -> bool:
            return read_hint(hint.model_dump_json().encode()) == hint

    control = Control(store, Hints(), send, max_event_bytes=1_048_576)  # type: ignore[arg-type]  # without Redis
    await control.process(_slice(value))
    (result,) = results
    sent = result.model_dump_json()
    assert PromotionResult.model_validate_json(sent).model_dump_json() == sent
    assert result.error is None or "a fault inside Headrace" not in result.error.message
    event = read_event(value, 1_048_576, NOW)
    if isinstance(event, PromotionEvent):
        assert await store.apply(event) == result or result.status == "rejected"
        if event.model is not None and result.status == "applied":
            registered = await store.find(event.model_name)
            assert registered is not None
            assert registered.versions[event.model.version].spec == stored_form(event.model)


@with_postgresql
@given(
    value=near(response()),
    timestamp=st.integers(NOW_MS - 10**8, NOW_MS + 10**8) | st.integers(-(2**63), 2**63 - 1),
)
async def test_responses_of_the_log(opened: Database, value: bytes, timestamp: int) -> None:
    """Logged as sent, or counted as unreadable or of a day that is not kept."""
    await _execute(opened, "DELETE FROM prediction_log")
    writer = Writer(
        PredictionLog(opened), RowReader(str, keeps_predictions=True), keep_days=30, clock=lambda: NOW
    )
    await writer.process(_slice(value, timestamp=timestamp, headers=headers_of("requests/0/7")))
    assert writer.written + writer.unreadable + writer.not_kept == 1
    rows = await _execute(opened, "SELECT request_id, user_id, latency_ms FROM prediction_log")
    assert len(rows) == writer.written
    for row in rows:
        sent = orjson.loads(value)
        assert row["request_id"] == sent["request_id"].replace("\0", "\ufffd")
        assert row["user_id"] == sent["user_id"].replace("\0", "\ufffd")
        # A double there, while JSON may have any integer.
        assert row["latency_ms"] == float(sent["latency_ms"])


@with_postgresql
@given(value=near(ALERT))
async def test_alerts(opened: Database, value: bytes) -> None:
    """Recorded and read as sent, or no alert."""
    await _execute(opened, "DELETE FROM alert_states")
    await _execute(opened, "DELETE FROM alert_events")
    try:
        alert = Alert.model_validate_json(value)
    except ValidationError:
        return
    events = AlertEvents(opened)
    assert await events.record(alert) is (alert.state == "firing")
    if alert.state == "firing":
        (recorded,) = await events.unpublished()
        assert (
            [recorded.alert] == await events.firing() == [Alert.model_validate_json(alert.model_dump_json())]
        )


@given(value=near(RESULT) | near(response()))
async def test_replies(value: bytes) -> None:
    """A client's request gets its reply, an error of ours, or none; the reader of the topic goes on."""
    for id_field, expected, parse in (
        ("event_id", PromotionResult, _parse_result),
        ("request_id", PredictResponse, _parse_response),
    ):
        pending: PendingReplies[Any] = PendingReplies(
            ReplyForm(id_field, object_or_none, parse), HeadraceError("closed")
        )
        reply = pending.expect("e1" if id_field == "event_id" else "r0", b"k")
        pending.deliver(b"k", value)
        if reply.done():
            error = reply.exception()
            assert isinstance(error, HeadraceError) if error else isinstance(reply.result(), expected)
        reply.cancel()


@given(value=near(OUTCOME))
def test_outcomes(value: bytes) -> None:
    """An outcome that its own JSON is read back as, or none."""
    try:
        outcome = Outcome.model_validate_json(value)
    except ValidationError:
        return
    again = Outcome.model_validate_json(outcome.model_dump_json())
    assert again.model_dump_json() == outcome.model_dump_json()


@given(value=near(HINT))
def test_hints(value: bytes) -> None:
    """A hint within 64 bits, or none."""
    hint = read_hint(value)
    assert hint is None or (hint.epoch < 2**63 and hint.revision < 2**63 and len(hint.model_name) <= 63)
