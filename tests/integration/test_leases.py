"""Leases on a real PostgreSQL: who lives, and how far each worker has followed the registry."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest
from aiokafka import ConsumerRecord

from registry.leases import FORGET_SECONDS, LEASE_SECONDS, Lease, Leases
from registry.postgres import Database
from schemas.events import MetricsDelta
from streams.clients.predict_client import PredictClient
from streams.config.identity import Identity
from streams.serving import heartbeat
from streams.serving.heartbeat import end_lease, keep_lease
from streams.serving.route_table import ServedTables, ServingTable
from tests.support.kafka.topic_log import topic_log
from tests.support.models.served_model import apply, serve_model, spec_of
from tests.support.promotions.events import event, spec
from tests.support.servers.http_server import HttpRequest, http_server, serve_doubler
from tests.support.stack.services import MakeTopics
from tests.support.worker.leases import until_so_many_live
from tests.support.worker.process import StartWorker

DEADLINE_SECONDS = 20.0
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
async def leases(registry: Database) -> Leases:
    """Of an empty registry."""
    return Leases(registry)


@pytest.fixture
async def connection(database: str) -> AsyncIterator[asyncpg.Connection]:
    """What a person with psql would have."""
    connection = await asyncpg.connect(database)
    yield connection
    await connection.close()


async def age(connection: asyncpg.Connection, worker: str, seconds: float) -> None:
    """Make a lease so old."""
    renewed_at = "now() - make_interval(secs => $2)"
    await connection.execute(
        f"UPDATE worker_leases SET renewed_at = {renewed_at} WHERE worker = $1", worker, seconds
    )


@asynccontextmanager
async def renewed(connection: asyncpg.Connection) -> AsyncIterator[None]:
    """After the block, wait until my lease is written again since its beginning."""
    query = "SELECT renewed_at FROM worker_leases WHERE worker = $1"
    before = await connection.fetchval(query, ME.worker)
    yield
    async with asyncio.timeout(DEADLINE_SECONDS):
        while await connection.fetchval(query, ME.worker) == before:
            pass


async def until_live(leases: Leases, *expected: Lease) -> None:
    """Wait until exactly these leases are live."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while await leases.live() != list(expected):
            pass


async def test_a_lease_is_read_as_it_was_written(leases: Leases) -> None:
    """The last renewal counts; a worker's other lives and other workers have leases of their own."""
    await leases.renew(Lease("w-2", "boot-1", 3, {"m": "v2 cannot be loaded: é\\u0000"}))
    await leases.renew(Lease("w-1", "boot-2", 5))
    await leases.renew(Lease("w-1", "boot-1", 4, {"m": "its versions are being loaded"}))
    await leases.renew(Lease("w-1", "boot-1", 6))
    assert await leases.live() == [
        Lease("w-1", "boot-1", 6),
        Lease("w-1", "boot-2", 5),
        Lease("w-2", "boot-1", 3, {"m": "v2 cannot be loaded: é\\u0000"}),
    ]


def test_who_serves_an_epoch() -> None:
    """Those that are there or further, except for the models that they are behind with."""
    lease = Lease("w-1", "boot-1", 5, {"m": "v2 cannot be loaded"})
    assert [lease.serves("other", epoch) for epoch in (4, 5, 6)] == [True, True, False]
    assert not lease.serves("m", 4)


async def test_who_does_not_renew_lives_no_more(connection: asyncpg.Connection, leases: Leases) -> None:
    """By the database's clock; a renewal after that counts again."""
    mine, other = Lease("w-1", "boot-1", 1), Lease("w-2", "boot-1", 1)
    await leases.renew(mine)
    await leases.renew(other)
    await age(connection, "w-1", LEASE_SECONDS + 0.1)
    await age(connection, "w-2", LEASE_SECONDS / 2)
    assert await leases.live() == [other]
    await leases.renew(mine)
    assert await leases.live() == [mine, other]


async def test_an_end_takes_its_lease_away_and_those_of_the_long_dead(
    connection: asyncpg.Connection, leases: Leases
) -> None:
    """The same worker's other life, and those that may only be away, keep theirs."""
    for worker, boot_id in (("w-1", "boot-1"), ("w-1", "boot-2"), ("late", "boot-1"), ("dead", "boot-1")):
        await leases.renew(Lease(worker, boot_id, 1))
    await age(connection, "late", FORGET_SECONDS - 60)
    await age(connection, "dead", FORGET_SECONDS + 60)
    await leases.end("w-1", "boot-1")
    rows = await connection.fetch("SELECT worker, boot_id FROM worker_leases ORDER BY worker")
    assert [tuple(row) for row in rows] == [("late", "boot-1"), ("w-1", "boot-2")]
    assert await leases.live() == [Lease("w-1", "boot-2", 1)]


@asynccontextmanager
async def kept(leases: Leases, tables: ServedTables) -> AsyncIterator[None]:
    """A worker's lease, until the block ends."""
    keeping = asyncio.create_task(keep_lease(leases, tables, ME, renew_seconds=SELDOM_SECONDS))
    try:
        yield
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)


def mine(epoch: int, **behind: str) -> Lease:
    return Lease(ME.worker, ME.boot_id, epoch, behind)


async def test_a_change_is_told_when_the_last_slice_before_it_is_answered(
    connection: asyncpg.Connection, leases: Leases, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not at the swap: until then an answer by the older table may still come; and at once then."""
    monkeypatch.setattr(heartbeat, "MAX_RENEW_SECONDS", SELDOM_SECONDS)
    tables = ServedTables()
    tables.swap(ServingTable(1))
    async with kept(leases, tables):
        await until_live(leases, mine(1))
        with tables.in_use():
            with tables.in_use():
                tables.swap(ServingTable(2))
                async with renewed(connection):
                    with tables.in_use():
                        tables.swap(ServingTable(3))
            async with renewed(connection):
                tables.swap(ServingTable(4, {}, {"m": "its versions are being loaded"}))
            assert await leases.live() == [mine(1)]
        await until_live(leases, mine(4, m="its versions are being loaded"))
        tables.swap(ServingTable(4))
        await until_live(leases, mine(4))


async def test_a_lease_does_not_run_out_between_seldom_polls(
    connection: asyncpg.Connection, leases: Leases
) -> None:
    """It is renewed though nothing changes, long before the registry is read again."""
    async with kept(leases, ServedTables()):
        await until_live(leases, mine(-1))
        async with renewed(connection):
            pass


async def test_a_lease_ends_when_the_registry_cannot_be_reached_too(
    registry: Database, leases: Leases
) -> None:
    """A worker's end does not fail by it; its lease runs out."""
    await leases.renew(mine(1))
    await registry.close()
    await end_lease(leases, ME)


async def test_a_worker_lives_from_its_start_to_its_end(
    topics: MakeTopics, database: str, leases: Leases, start_worker: StartWorker, tmp_path: Path
) -> None:
    """It says how far it is as soon as it serves, and takes its lease away when it is told to end."""
    await serve_model(database, tmp_path)
    settings = await topics(
        1, postgres_dsn=database, artifact_dir=str(tmp_path / "artifacts"), worker_name="w-1"
    )
    worker = start_worker(settings)
    await worker.ready()
    live = await until_so_many_live(leases, 1)
    assert [(lease.worker, lease.epoch, lease.behind) for lease in live] == [("w-1", 2, {})]
    worker.terminate()
    assert await worker.ended() == 0
    assert await leases.live() == []


async def test_a_worker_that_drains_is_still_known(
    topics: MakeTopics, database: str, leases: Leases, start_worker: StartWorker
) -> None:
    """Who waits for a change must know of it until its last answer, which may be by an older route."""
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
        await until_so_many_live(leases, 1)
        async with PredictClient(settings) as client, asyncio.timeout(DEADLINE_SECONDS):
            answered = asyncio.create_task(client.predict("m", user_id="u", input={"x": HELD}))
            await called.wait()
            worker.terminate()
            await worker.logged("shutting down")
            await apply(database, event("register", model=spec("v2")))
            # It follows the registry too: the new epoch is that of its answers when the held one is out.
            assert [lease.epoch for lease in await leases.live()] == [2]
            release.set()
            assert (await answered).predictions == 2 * HELD
        assert await worker.ended() == 0
    assert await leases.live() == []


async def test_a_worker_that_cannot_load_a_version_says_so_and_stays(
    topics: MakeTopics, database: str, leases: Leases, start_worker: StartWorker, tmp_path: Path
) -> None:
    """Its lease has the reason, its answers the older route, and the metrics count it."""
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
    await until_so_many_live(leases, 1)

    async def until_at(epoch: int, behind: str) -> Lease:
        """Wait until it is at an epoch, and behind with the model for a reason that begins so."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while True:
                (lease,) = await leases.live()
                reason = lease.behind.get(model, "")
                if lease.epoch == epoch and bool(reason) is bool(behind) and reason.startswith(behind):
                    return lease

    broken = spec_of(tmp_path, "v2", artifact_sha256="0" * 64)
    await apply(database, event("register", model, model=broken))
    assert (await until_at(3, "")).serves(model, 3)
    await apply(database, event("promote", model, version="v2"))
    await worker.logged("version not loaded")
    lease = await until_at(4, "v2 cannot be loaded: ")
    assert lease.behind.keys() == {model}
    assert "SHA-256" in lease.behind[model]
    assert not lease.serves(model, 4)
    async with (
        PredictClient(settings) as client,
        topic_log(settings.kafka_bootstrap, settings.topic_metrics) as log,
    ):
        stayed = await client.predict(model, user_id="u", input={"x": 1})
        assert (stayed.model_version, stayed.revision, stayed.stale, stayed.error) == ("v1", 3, False, None)
        await log.until(lambda: failures(log.of(settings.topic_metrics)), "a delta with a failed load")
        assert failures(log.of(settings.topic_metrics)) == {(model, "v2", 4): 1}
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
