"""streams/prometheus: counters appear in Prometheus's format, and other tasks run while a page is written."""

import asyncio
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import cast

import pytest

from registry.follower import EpochFollower
from registry.snapshot import RegisteredModel
from streams.kafka.offset_tracker import GroupOffsets
from streams.monitoring.rules.global_rules import Sample, WorkerStatus
from streams.prometheus import page as page_module
from streams.prometheus.catalogue import CACHE_HITS, METRICS, WORKER_HEARTBEAT_AGE, sample_names
from streams.prometheus.monitor_families import global_families
from streams.prometheus.page import MetricsPage
from streams.prometheus.predict_families import KEPT, PredictMetrics
from streams.prometheus.text_format import Part, labels, simple
from streams.serving.active_tables import ActiveTables
from streams.serving.refresh import ServingRefresher
from streams.serving.request_metrics import MetricsRegistry
from streams.serving.route_table import ServingTable
from tests.support.models.served_versions import (
    RecordingBackend,
    served_model,
    served_version,
)
from tests.support.worker.http_pages import Samples
from tests.support.worker.version_loading import version_loader

LABELS = {
    name: {*metric.labels, *(["le"] if name.endswith("_bucket") else [])}
    for metric in METRICS
    for name in sample_names(metric)
}
START = datetime(2026, 11, 27, tzinfo=UTC)


async def shown(*reads: page_module.Read) -> Samples:
    page = MetricsPage()
    for read in reads:
        page.add(read)
    text = (await page.text()).decode()
    for line in text.splitlines():
        if line.startswith("headrace_"):
            name, _, values = line.partition("{")
            used = set(re.findall(r'(\w+)="', values))
            assert used <= LABELS[name.partition(" ")[0]], line
    return Samples(text)


def serving(book: MetricsRegistry) -> tuple[ActiveTables, PredictMetrics]:
    """A worker that serves `m` half by v1 and half by v2, and `quiet`, which is behind."""
    tables = ActiveTables()
    versions = [served_version("m", name, RecordingBackend()) for name in ("v1", "v2")]
    model = served_model("m", 7, *versions)
    quiet = served_model("quiet", 2, served_version("quiet", "v1", RecordingBackend()), active=False)
    tables.swap(ServingTable(11, {"m": model, "quiet": quiet}, {"quiet": "its versions are being loaded"}))

    async def load(*_: object) -> RecordingBackend:
        return RecordingBackend()

    clock = iter([100.0, 103.5])
    refresher = ServingRefresher(
        cast("EpochFollower[RegisteredModel]", None),
        tables,
        version_loader(load, on_load_failed=book.load_failed),
        poll_seconds=1.0,
        stale_after_seconds=5.0,
        clock=lambda: next(clock),
    )
    return tables, PredictMetrics(
        book,
        tables,
        refresher,
        rejected_cache_values=lambda: 3,
        waiting=lambda _, version: int(version == "v1"),
        unsent_bytes=lambda: 5,
    )


async def test_totals_are_those_of_all_windows_and_of_the_one_that_is_open() -> None:
    book = MetricsRegistry("w", "boot", START)
    for seconds in (1, 2):
        tally = book.counters_for("m", "v1")
        tally.ok += 10
        tally.cache_hits += 4
        tally.cache_misses += 6
        tally.failed("INVALID_INPUT")
        tally.fell_back("BACKEND_ERROR")
        tally.breaker_opened += 1
        tally.input_faults += 1
        tally.latency_ms.add(3.0, 11)
        tally.end_to_end_ms.add(70.0, 11)
        book.meter("m", "v1").called(6, 0.25)
        if seconds == 1:
            assert [delta.requests for delta in book.close_window(START + timedelta(seconds=1))] == [11]
    book.load_failed("m", "v2")
    book.counters_for("", "").failed("MALFORMED_RECORD")
    _, metrics = serving(book)
    values = await shown(metrics.read)
    v1 = {"model_name": "m", "model_version": "v1"}
    assert values.value("headrace_requests_total", **v1, outcome="ok") == 20
    assert values.value("headrace_requests_total", **v1, outcome="error") == 2
    assert values.value("headrace_request_errors_total", **v1, code="INVALID_INPUT") == 2
    assert values.value("headrace_request_errors_total", code="MALFORMED_RECORD") == 1
    assert values.value("headrace_fallbacks_total", **v1) == 2
    assert values.value("headrace_fallback_causes_total", **v1, code="BACKEND_ERROR") == 2
    assert values.value("headrace_cache_hits_total", **v1) == 8
    assert values.value("headrace_cache_misses_total", **v1) == 12
    assert values.value("headrace_breaker_opened_total", **v1) == 2
    assert values.value("headrace_input_faults_total", **v1) == 2
    assert values.value("headrace_load_failures_total", model_name="m", model_version="v2") == 1
    assert values.value("headrace_request_latency_seconds_sum", **v1) == pytest.approx(0.066)
    assert values.value("headrace_request_latency_seconds_bucket", **v1, le="0.0028284271") == 0
    assert values.value("headrace_request_latency_seconds_bucket", **v1, le="0.004") == 22
    assert values.value("headrace_request_end_to_end_seconds_count", **v1) == 22
    assert values.value("headrace_backend_call_seconds_bucket", **v1, le="+Inf") == 2
    assert values.value("headrace_backend_call_seconds_bucket", **v1, le="0.256") == 2
    assert values.value("headrace_backend_call_seconds_bucket", **v1, le="0.18101934") == 0
    assert values.value("headrace_backend_batch_size_sum", **v1) == 12
    assert values.value("headrace_backend_batch_size_count", **v1) == 2
    # Read again, nothing has changed by reading.
    assert book.lifetime_counters("m", "v1").ok == 20
    assert [delta.ok for delta in book.close_window(START + timedelta(seconds=2)) if delta.ok] == [10]
    assert book.lifetime_counters("m", "v1").ok == 20


async def test_what_is_served_is_shown_before_its_first_request() -> None:
    """Counters at zero, so that the first request is an increase."""
    _, metrics = serving(MetricsRegistry("w", "boot", START))
    values = await shown(metrics.read)
    v2 = {"model_name": "m", "model_version": "v2"}
    assert values.value("headrace_requests_total", **v2, outcome="error") == 0
    assert values.value("headrace_traffic_weight_ratio", **v2) == 0.5
    assert values.value("headrace_traffic_weight_ratio", model_name="quiet", model_version="v1") == 0
    assert values.value("headrace_version_loaded", **v2) == 1
    assert values.value("headrace_model_revision", model_name="m") == 7
    assert values.value("headrace_model_behind", model_name="m") == 0
    assert values.value("headrace_model_behind", model_name="quiet") == 1
    assert values.value("headrace_registry_epoch") == 11
    assert values.value("headrace_registry_age_seconds") == 3.5
    assert values.value("headrace_models") == 2
    assert values.value("headrace_model_versions") == 3
    # No bucket of what was never measured.
    assert not any(name.startswith("headrace_request_latency_seconds") for name in values.names)


async def test_a_version_that_is_over_is_shown_for_an_hour_more() -> None:
    """Versions come and go for years; by then the last requests are scraped."""
    book = MetricsRegistry("w", "boot", START)
    now = datetime.now(UTC)
    for version, ended in (("v1", KEPT * 2), ("old", KEPT * 2), ("ended", KEPT / 2)):
        book.counters_for("m", version).ok += 1
        list(book.close_window(now - ended))
    _, metrics = serving(book)
    list(metrics.read())
    assert {version for model, version in book.counted if model == "m"} == {"v1", "ended"}


async def test_the_library_tells_of_the_process() -> None:
    values = await shown()
    assert values.value("process_resident_memory_bytes") > 1_000_000
    assert "python_info" in values.names


async def test_parts_of_one_name_stand_together_and_labels_are_escaped() -> None:
    def read() -> Iterator[Part]:
        for name in ('a"b', "c\\d", "e\nf"):
            yield simple(WORKER_HEARTBEAT_AGE, [(labels(worker=name), 1)])
            yield simple(CACHE_HITS, [(labels(model_name=name), 2)])

    values = await shown(read, read)
    assert values.value(WORKER_HEARTBEAT_AGE.name, worker="e\nf") == 1
    assert values.value(CACHE_HITS.name, model_name='a"b') == 2


async def test_others_have_their_turn_while_a_page_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_module, "STEP_SECONDS", 0.0)
    page = MetricsPage()
    page.add(
        lambda: (simple(WORKER_HEARTBEAT_AGE, [(labels(worker=str(number)), 1)]) for number in range(100))
    )
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    waiting = asyncio.create_task(others())
    await page.text()
    waiting.cancel()
    assert turns >= 100


async def test_a_sample_tells_of_each_worker_once() -> None:
    """Of a restarted worker the newest boot; a worker that is gone for long is left out."""
    sample = Sample(
        at=1000.0,
        offsets={0: GroupOffsets(committed=5, end=12), 1: GroupOffsets(committed=3, end=3)},
        workers=[
            WorkerStatus("one", "a", 300.0, 3),
            WorkerStatus("one", "b", 0.5, 8, ("m",)),
            WorkerStatus("two", "c", 20.0, 9),
            WorkerStatus("gone", "d", 3000.0, 1),
        ],
        epoch=9,
        missing_deltas=2,
    )
    values = await shown(lambda: global_families(sample, 1002.0))
    assert values.value("headrace_group_lag_records", partition="0") == 7
    assert values.value("headrace_group_lag_records", partition="1") == 0
    assert values.value("headrace_missing_deltas") == 2
    assert values.value("headrace_worker_heartbeat_age_seconds", worker="one") == 2.5
    assert values.value("headrace_worker_heartbeat_age_seconds", worker="two") == 22.0
    assert values.value("headrace_worker_epochs_behind", worker="one") == 1
    assert values.value("headrace_worker_models_behind", worker="one") == 1
    assert values.labels("headrace_worker_heartbeat_age_seconds", "worker") == {"one", "two"}
