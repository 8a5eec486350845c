"""Heartbeats on a real PostgreSQL: which workers are live, and how far each has followed the registry."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest
from aiokafka import ConsumerRecord

from registry.heartbeats import FORGET_SECONDS, Heartbeats
from registry.postgres import Database
from registry.worker_heartbeat import HEARTBEAT_TIMEOUT_SECONDS, WorkerHeartbeat
from schemas.events import MetricsDelta
from streams.clients.predict_client import PredictClient
from streams.config.identity import Identity
from streams.serving.active_tables import ActiveTables
from streams.serving.heartbeat import remove_heartbeat, send_heartbeats
from streams.serving.route_table import ServingTable
from tests.support.deadline import DEADLINE_SECONDS, wait_until
from tests.support.kafka.topic_log import topic_log
from tests.support.models.served_model import apply, serve_model, spec_of
from tests.support.promotions.events import event, spec
from tests.support.servers.http_server import HttpRequest, http_server, serve_doubler
from tests.support.stack.services import MakeTopics
from tests.support.worker.process import StartWorker
from tests.support.worker.registry_waits import live_heartbeats, until_so_many_live

ME = Identity("w-1", "boot-1")
# Far beyond the deadline.
SELDOM_SECONDS = 600.0
# The input that a model server keeps waiting.
HELD = 21


@pytest.fixture
async def registry(database: str) -> AsyncIterator[Database]:
    """A pool on an empty registry."""
    registry = await Database.connect(database)
    yield registry
    await registry.close()


@pytest.fixture
async def heartbeats(registry: Database) -> Heartbeats:
    """Of an empty registry."""
    return Heartbeats(registry)


@pytest.fixture
async def connection(database: str) -> AsyncIterator[asyncpg.Connection]:
    """A plain connection, as psql has."""
    connection = await asyncpg.connect(database)
    yield connection
    await connection.close()


async def age(connection: asyncpg.Connection, worker: str, seconds: float) -> None:
    """Set the age of a worker's heartbeat."""
    sent_at = "now() - make_interval(secs => $2)"
    await connection.execute(
        f"UPDATE worker_heartbeats SET sent_at = {sent_at} WHERE worker = $1", worker, seconds
    )


@asynccontextmanager
async def sent_again(connection: asyncpg.Connection) -> AsyncIterator[None]:
    """After the block, wait for a heartbeat that was sent since the block began."""
    query = "SELECT sent_at FROM worker_heartbeats WHERE worker = $1"
    before = await connection.fetchval(query, ME.worker)
    yield

    async def sent_again() -> bool:
        return bool(await connection.fetchval(query, ME.worker) != before)

    await wait_until(sent_again, "a heartbeat")


async def until_live(heartbeats: Heartbeats, *expected: WorkerHeartbeat) -> None:
    """Wait until exactly these heartbeats are live."""

    async def are_live() -> bool:
        return await live_heartbeats(heartbeats) == list(expected)

    await wait_until(are_live, f"exactly the heartbeats {expected}")


async def test_a_heartbeat_is_read_as_it_was_written(heartbeats: Heartbeats) -> None:
    """The last one counts; each worker and each start of a worker has a heartbeat of its own."""
    await heartbeats.record(WorkerHeartbeat("w-2", "boot-1", 3, {"m": "v2 cannot be loaded: é\\u0000"}))
    await heartbeats.record(WorkerHeartbeat("w-1", "boot-2", 5))
    await heartbeats.record(WorkerHeartbeat("w-1", "boot-1", 4, {"m": "its versions are being loaded"}))
    await heartbeats.record(WorkerHeartbeat("w-1", "boot-1", 6))
    assert await live_heartbeats(heartbeats) == [
        WorkerHeartbeat("w-1", "boot-1", 6),
        WorkerHeartbeat("w-1", "boot-2", 5),
        WorkerHeartbeat("w-2", "boot-1", 3, {"m": "v2 cannot be loaded: é\\u0000"}),
    ]


def test_who_serves_an_epoch() -> None:
    """A worker at that epoch or a later one, except for the models in `behind`."""
    heartbeat = WorkerHeartbeat("w-1", "boot-1", 5, {"m": "v2 cannot be loaded"})
    assert [heartbeat.serves("other", epoch) for epoch in (4, 5, 6)] == [True, True, False]
    assert not heartbeat.serves("m", 4)


async def test_a_worker_without_a_recent_heartbeat_is_not_live(
    connection: asyncpg.Connection, heartbeats: Heartbeats
) -> None:
    """By the database's clock; a later heartbeat makes it live again."""
    mine, other = WorkerHeartbeat("w-1", "boot-1", 1), WorkerHeartbeat("w-2", "boot-1", 1)
    await heartbeats.record(mine)
    await heartbeats.record(other)
    await age(connection, "w-1", HEARTBEAT_TIMEOUT_SECONDS + 0.1)
    await age(connection, "w-2", HEARTBEAT_TIMEOUT_SECONDS / 2)
    assert await live_heartbeats(heartbeats) == [other]
    await heartbeats.record(mine)
    assert await live_heartbeats(heartbeats) == [mine, other]


async def test_remove_deletes_one_heartbeat_and_those_that_are_forgotten(
    connection: asyncpg.Connection, heartbeats: Heartbeats
) -> None:
    """Another start of the same worker, and workers that may only be away, keep theirs."""
    for worker, boot_id in (("w-1", "boot-1"), ("w-1", "boot-2"), ("late", "boot-1"), ("dead", "boot-1")):
        await heartbeats.record(WorkerHeartbeat(worker, boot_id, 1))
    await age(connection, "late", FORGET_SECONDS - 60)
    await age(connection, "dead", FORGET_SECONDS + 60)
    await heartbeats.remove("w-1", "boot-1")
    rows = await connection.fetch("SELECT worker, boot_id FROM worker_heartbeats ORDER BY worker")
    assert [tuple(row) for row in rows] == [("late", "boot-1"), ("w-1", "boot-2")]
    assert await live_heartbeats(heartbeats) == [WorkerHeartbeat("w-1", "boot-2", 1)]


@asynccontextmanager
async def sending(heartbeats: Heartbeats, tables: ActiveTables) -> AsyncIterator[None]:
    """Send a worker's heartbeats until the block ends."""
    task = asyncio.create_task(send_heartbeats(heartbeats, tables, ME, interval_seconds=SELDOM_SECONDS))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def mine(epoch: int, **behind: str) -> WorkerHeartbeat:
    return WorkerHeartbeat(ME.worker, ME.boot_id, epoch, behind)


async def test_an_epoch_is_reported_when_the_last_slice_before_it_is_answered(
    connection: asyncpg.Connection, heartbeats: Heartbeats, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not at the swap: an answer by the older table may still come after it. Then at once."""
    monkeypatch.setattr("streams.serving.heartbeat.MAX_INTERVAL_SECONDS", SELDOM_SECONDS)
    tables = ActiveTables()
    tables.swap(ServingTable(1))
    async with sending(heartbeats, tables):
        await until_live(heartbeats, mine(1))
        with tables.in_use():
            with tables.in_use():
                tables.swap(ServingTable(2))
                async with sent_again(connection):
                    with tables.in_use():
                        tables.swap(ServingTable(3))
            async with sent_again(connection):
                tables.swap(ServingTable(4, {}, {"m": "its versions are being loaded"}))
            assert await live_heartbeats(heartbeats) == [mine(1)]
        await until_live(heartbeats, mine(4, m="its versions are being loaded"))
        tables.swap(ServingTable(4))
        await until_live(heartbeats, mine(4))


async def test_a_heartbeat_does_not_time_out_between_rare_polls(
    connection: asyncpg.Connection, heartbeats: Heartbeats
) -> None:
    """It is sent though nothing changes, long before the registry is read again."""
    async with sending(heartbeats, ActiveTables()):
        await until_live(heartbeats, mine(-1))
        async with sent_again(connection):
            pass


async def test_removing_a_heartbeat_does_not_fail_without_the_registry(
    registry: Database, heartbeats: Heartbeats
) -> None:
    """The heartbeat times out instead."""
    await heartbeats.record(mine(1))
    await registry.close()
    await remove_heartbeat(heartbeats, ME)


async def test_a_worker_is_live_from_its_start_to_its_end(
    topics: MakeTopics, database: str, heartbeats: Heartbeats, start_worker: StartWorker, tmp_path: Path
) -> None:
    """It sends a heartbeat as soon as it serves, and removes it at SIGTERM."""
    await serve_model(database, tmp_path)
    settings = await topics(
        1, postgres_dsn=database, artifact_dir=str(tmp_path / "artifacts"), worker_name="w-1"
    )
    worker = start_worker(settings)
    await worker.ready()
    live = await until_so_many_live(heartbeats, 1)
    assert [(heartbeat.worker, heartbeat.epoch, heartbeat.behind) for heartbeat in live] == [("w-1", 2, {})]
    worker.terminate()
    assert await worker.ended() == 0
    assert await live_heartbeats(heartbeats) == []


async def test_a_draining_worker_is_live(
    topics: MakeTopics, database: str, heartbeats: Heartbeats, start_worker: StartWorker
) -> None:
    """Its last answer may be by an older route, so a client that waits for a change must see it until then."""
    called, release = asyncio.Event(), asyncio.Event()

    async def hold(request: HttpRequest, writer: asyncio.StreamWriter) -> None:
        if request.path.endswith("/infer") and request.json()["inputs"][0]["data"] == [HELD]:
            called.set()
            await release.wait()
        await serve_doubler(request, writer)

    settings = await topics(1, postgres_dsn=database)
    async with http_server(hold) as url:
        model = spec("v1", endpoint=f"{url}/v2/models/m", timeout_ms=60_000, cache_ttl_seconds=0)
        await apply(database, event("register", model=model), event("promote", version="v1"))
        worker = start_worker(settings, roles="predict")
        await worker.ready()
        await until_so_many_live(heartbeats, 1)
        async with PredictClient(settings) as client, asyncio.timeout(DEADLINE_SECONDS):
            answered = asyncio.create_task(client.predict("m", user_id="u", input={"x": HELD}))
            await called.wait()
            worker.terminate()
            await worker.logged("shutting down")
            await apply(database, event("register", model=spec("v2")))
            # It follows the registry too, and reports the new epoch once the held answer is sent.
            assert [heartbeat.epoch for heartbeat in await live_heartbeats(heartbeats)] == [2]
            release.set()
            assert (await answered).predictions == 2 * HELD
        assert await worker.ended() == 0
    assert await live_heartbeats(heartbeats) == []


async def test_a_worker_that_cannot_load_a_version_reports_it_and_keeps_the_route(
    topics: MakeTopics, database: str, heartbeats: Heartbeats, start_worker: StartWorker, tmp_path: Path
) -> None:
    """Its heartbeat carries the reason, its answers follow the older route, and the metrics count the failure."""
    model = await serve_model(database, tmp_path)
    settings = await topics(
        1,
        postgres_dsn=database,
        artifact_dir=str(tmp_path / "artifacts"),
        metrics_interval_seconds=0.1,
        registry_poll_seconds=0.2,
    )
    worker = start_worker(settings)
    await worker.ready()
    await until_so_many_live(heartbeats, 1)

    async def until_at(epoch: int, behind: str) -> WorkerHeartbeat:
        """Wait for the heartbeat of an epoch with a reason for the model that begins with `behind`."""

        async def found() -> WorkerHeartbeat | None:
            (heartbeat,) = await live_heartbeats(heartbeats)
            reason = heartbeat.behind.get(model, "")
            is_it = heartbeat.epoch == epoch and bool(reason) is bool(behind) and reason.startswith(behind)
            return heartbeat if is_it else None

        heartbeat = await wait_until(found, f"a heartbeat at epoch {epoch}")
        assert heartbeat is not None
        return heartbeat

    broken = spec_of(tmp_path, "v2", artifact_sha256="0" * 64)
    await apply(database, event("register", model, model=broken))
    assert (await until_at(3, "")).serves(model, 3)
    await apply(database, event("promote", model, version="v2"))
    await worker.logged("version not loaded")
    heartbeat = await until_at(4, "v2 cannot be loaded: ")
    assert heartbeat.behind.keys() == {model}
    assert "SHA-256" in heartbeat.behind[model]
    assert not heartbeat.serves(model, 4)
    async with (
        PredictClient(settings) as client,
        topic_log(settings.kafka_bootstrap, settings.topic_metrics) as log,
    ):
        stayed = await client.predict(model, user_id="u", input={"x": 1})
        assert (stayed.model_version, stayed.revision, stayed.stale, stayed.error) == ("v1", 3, False, None)
        await log.until(lambda: failures(log.of(settings.topic_metrics)), "a delta with a failed load")
        assert failures(log.of(settings.topic_metrics)) == {(model, "v2", 3): 1}, "it serves revision 3"
        await apply(database, event("rollback", model))
        assert (await until_at(5, "")).serves(model, 5)
        back = await client.predict(model, user_id="u", input={"x": 1})
        assert (back.model_version, back.revision) == ("v1", 5)


def failures(records: Sequence[ConsumerRecord]) -> dict[tuple[str, str, int], int]:
    """The failed loads that were counted so far, by model, version and revision."""
    deltas = [MetricsDelta.model_validate_json(record.value) for record in records]
    return {
        (delta.model_name, delta.model_version, delta.revision): delta.load_failures
        for delta in deltas
        if delta.load_failures
    }
