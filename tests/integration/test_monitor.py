"""The role `monitor` on the real stack: its totals are those of the answers, through restarts and outages."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import orjson
import pytest
from aiokafka import AIOKafkaProducer

from registry.metric_windows import MetricWindows
from registry.postgres import Database
from schemas.windows import RESOLUTIONS_SECONDS, Totals, total
from streams.cli.failures import REFUSED
from streams.config.settings import Settings
from streams.monitoring.version_metrics import by_version
from tests.support.deadline import wait_until
from tests.support.kafka.topic_log import topic_log, uncommitted_metrics
from tests.support.metrics.deltas import NOON, delta
from tests.support.models.served_model import serve_model
from tests.support.stack.command import headrace
from tests.support.stack.services import MakeTopics
from tests.support.worker.process import StartWorker

PARTITIONS = 4
REQUESTS = 1000


@pytest.fixture
async def windows(database: str) -> AsyncIterator[MetricWindows]:
    """The windows of an empty registry."""
    opened = await Database.connect(database)
    yield MetricWindows(opened)
    await opened.close()


async def counted(windows: MetricWindows, model: str, resolution_seconds: int = 10) -> dict[str, Totals]:
    """The totals of a model in today's windows, by version."""
    now = datetime.now(UTC)
    read = await windows.read(model, resolution_seconds, now - timedelta(hours=25), now + timedelta(hours=1))
    return by_version(read)


async def until_counted(windows: MetricWindows, model: str, requests: int) -> dict[str, Totals]:
    """Wait for totals of this many requests; return them by version."""

    async def enough() -> dict[str, Totals] | None:
        found = await counted(windows, model)
        return found if sum(each.requests for each in found.values()) >= requests else None

    return await wait_until(enough, f"{requests} requests counted") or {}


async def send(settings: Settings, model: str, first: int, count: int) -> None:
    async with AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap) as producer:
        deliveries = [
            await producer.send(
                settings.topic_requests,
                orjson.dumps(
                    {
                        "request_id": str(number),
                        "model_name": model,
                        "user_id": f"u{number}",
                        "input": {"x": number % 300},
                    }
                ),
                partition=number % PARTITIONS,
            )
            for number in range(first, first + count)
        ]
        await asyncio.gather(*deliveries)


async def test_totals_are_what_was_answered(
    topics: MakeTopics,
    database: str,
    windows: MetricWindows,
    start_worker: StartWorker,
    tmp_path: Path,
) -> None:
    """Both sides are counted; the monitor is killed in between, and reads everything once more at the end."""
    model = await serve_model(database, tmp_path, canary_percent=30)
    settings = await topics(
        PARTITIONS,
        postgres_dsn=database,
        artifact_dir=str(tmp_path / "artifacts"),
        metrics_interval_seconds=0.1,
    )
    worker, monitor = start_worker(settings, "predict"), start_worker(settings, "monitor")
    await asyncio.gather(worker.ready(), monitor.ready())
    async with topic_log(settings.kafka_bootstrap, settings.topic_responses) as log:
        await send(settings, model, 0, REQUESTS)
        await until_counted(windows, model, REQUESTS)
        monitor.kill()
        await monitor.ended()
        await send(settings, model, REQUESTS, REQUESTS)
        second = start_worker(settings, "monitor")
        await second.ready()
        await until_counted(windows, model, 2 * REQUESTS)
        worker.terminate()
        second.terminate()
        assert [await worker.ended(), await second.ended()] == [0, 0]
        # In another group, it reads every delta again.
        again = settings.model_copy(update={"monitor_group_id": f"again-{settings.monitor_group_id}"})
        third = start_worker(again, "monitor")
        await third.ready()

        async def all_read() -> bool:
            return not await uncommitted_metrics(again, PARTITIONS)

        await wait_until(all_read, "commits of all deltas")
        third.terminate()
        assert await third.ended() == 0
        await log.to_end()
        answers = [orjson.loads(record.value) for record in log.of(settings.topic_responses)]

    assert len(answers) == 2 * REQUESTS
    for resolution_seconds in RESOLUTIONS_SECONDS:
        found = await counted(windows, model, resolution_seconds)
        whole = total(found.values())
        assert whole.requests == whole.latency_ms.count == 2 * REQUESTS
        assert whole.cache_hits == sum(answer["cached"] for answer in answers)
        for version in ("v1", "v2"):
            assert found[version].ok == sum(answer["model_version"] == version for answer in answers)
    assert await windows.missing_deltas(settings.topic_metrics) == {}

    ended = await headrace("metrics", model, "--since", "1h", "--json", settings=settings)
    assert ended.code == 0, ended.stderr
    (document,) = ended.documents
    assert sum(each["requests"] for each in document["versions"].values()) == 2 * REQUESTS
    assert document["difference"]["requests"] == found["v2"].requests - found["v1"].requests
    assert document["missing_deltas"] == 0
    for each in document["versions"].values():
        assert 0 < each["weight_seconds"] < 3600
        assert each["requests_per_second"] == each["requests"] / each["weight_seconds"]
    ratio = found["v2"].requests / found["v1"].requests
    assert document["difference_percent"]["requests"] == pytest.approx(100 * (ratio - 1))
    shown = await headrace("metrics", model, settings=settings)
    assert "p99.9 ms" in shown.stdout
    assert "difference" in shown.stdout


async def test_windows_and_marks_change_together(windows: MetricWindows) -> None:
    """What is added again, by whomever, adds nothing; two readers of one partition take turns."""
    deltas = [delta(seq, at=NOON + timedelta(seconds=seq)) for seq in range(20)]
    added = await asyncio.gather(*(windows.add("metrics", 0, deltas) for _ in range(3)))
    assert sorted(map(len, added)) == [0, 0, 20]
    assert await windows.add("metrics", 0, deltas[:5]) == []
    read = await windows.read("m", 10, NOON, NOON + timedelta(hours=1))
    assert [window.totals.requests for window in read] == [10, 10]
    assert [
        window.totals.requests for window in await windows.read("m", 3600, NOON, NOON + timedelta(hours=1))
    ] == [20]
    assert await windows.missing_deltas("metrics") == {}
    await windows.add("metrics", 0, [delta(23)])
    assert await windows.missing_deltas("metrics") == {("w", "b"): 3}
    await windows.add("metrics", 1, [delta(20), delta(22)])
    assert await windows.missing_deltas("metrics") == {("w", "b"): 1}


async def test_old_windows_are_forgotten_by_their_resolution(windows: MetricWindows) -> None:
    """Each is kept as long as its setting says."""
    now = datetime.now(UTC)
    await windows.add("metrics", 0, [delta(0, at=now - timedelta(hours=2)), delta(1, at=now)])
    await windows.forget({10: 3600.0, 60: 3 * 3600.0, 3600: 3 * 3600.0})
    kept = {
        resolution: len(await windows.read("m", resolution, now - timedelta(days=1), now + timedelta(days=1)))
        for resolution in RESOLUTIONS_SECONDS
    }
    assert kept == {10: 1, 60: 2, 3600: 2}


async def test_a_record_that_is_no_delta_holds_up_none(
    topics: MakeTopics, database: str, windows: MetricWindows, start_worker: StartWorker, tmp_path: Path
) -> None:
    """It is counted, logged and left out; made-up models count under no name. The monitor goes on."""
    settings = await topics(1, postgres_dsn=database)
    model = await serve_model(database, tmp_path)
    now = datetime.now(UTC)
    good = orjson.loads(delta(at=now, model_name=model).model_dump_json())
    hostile = [
        good | {"window_start": "0001-01-01T00:00:00+14:00"},
        good | {"window_start": "9999-12-31T23:59:59-14:00"},
        good | {"worker": "w\0"},
        good | {"seq": 2**63},
        good | {"errors": {"NO\0CODE": 1}},
        good | {"latency_ms": good["latency_ms"] | {"buckets": {"x": 1}}},
    ]
    too_many = orjson.dumps(good).replace(b'"requests":1', b'"requests":20000000000000000000')
    made_up = good | {"model_name": "made-up", "boot_id": "other"}
    monitor = start_worker(settings, "monitor")
    await monitor.ready()
    async with AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap) as producer:
        for value in (
            b"{",
            None,
            b"[]",
            *map(orjson.dumps, [*hostile, made_up]),
            too_many,
            orjson.dumps(good),
        ):
            await producer.send_and_wait(settings.topic_metrics, value, key=b"m", partition=0)
    assert (await until_counted(windows, model, 1))["v1"].requests == 1
    assert await counted(windows, "made-up") == {}
    assert (await counted(windows, ""))[""].requests == 1
    assert len(await monitor.logged("records are not metrics deltas")) > 0
    monitor.terminate()
    assert await monitor.ended() == 0


async def test_stored_windows_that_cannot_be_read_are_left_out(
    topics: MakeTopics, database: str, windows: MetricWindows, tmp_path: Path
) -> None:
    """A monitor adds to them anew, and `headrace metrics` shows the others."""
    settings = await topics(1, postgres_dsn=database)
    model = await serve_model(database, tmp_path)
    now = datetime.now(UTC)
    await windows.add(
        "t", 0, [delta(seq, at=now - timedelta(minutes=2 * seq), model_name=model) for seq in (0, 1)]
    )
    connection = await asyncpg.connect(database)
    try:
        await connection.execute(
            "UPDATE metric_windows SET totals = jsonb_set(totals, '{requests}', '20000000000000000000')"
            " WHERE window_start > now() - interval '1 minute' AND resolution_seconds = 10"
        )
    finally:
        await connection.close()
    assert (await counted(windows, model))["v1"].requests == 1
    ended = await headrace("metrics", model, "--json", settings=settings)
    assert ended.code == 0, ended.stderr
    assert len(await windows.add("t", 0, [delta(2, at=now, model_name=model)])) == 1
    assert (await counted(windows, model))["v1"].requests == 2


async def test_a_model_without_metrics_and_one_that_is_none(
    topics: MakeTopics, database: str, tmp_path: Path
) -> None:
    """Each message says what may be missing or that the model does not exist; a wrong span is refused."""
    settings = await topics(1, postgres_dsn=database)
    model = await serve_model(database, tmp_path)
    ended = await headrace("metrics", model, settings=settings)
    assert ended.code == 0
    assert f"Nothing was counted for {model}" in ended.stdout
    ended = await headrace("metrics", "nobody", settings=settings)
    assert ended.code == REFUSED
    assert "UNKNOWN_MODEL" in ended.stderr
    ended = await headrace("metrics", model, "v9", settings=settings)
    assert ended.code == REFUSED
    assert f"UNKNOWN_VERSION: {model} has no version v9" in ended.stderr
    ended = await headrace("metrics", model, "--since", "r9", settings=settings)
    assert ended.code == REFUSED
    assert f"{model} has no revision 9: it has 1 to 2" in ended.stderr
    ended = await headrace("metrics", model, "v1", "--since", "r2", "--json", settings=settings)
    (document,) = ended.documents
    assert (ended.code, document["versions"]["v1"]["requests"]) == (0, 0)
    assert document["versions"]["v1"]["p50_ms"] is None
    ended = await headrace("metrics", model, "--since", "yesterday", settings=settings)
    assert ended.code == 2
    assert "15m" in ended.stderr
