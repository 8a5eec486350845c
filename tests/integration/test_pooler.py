"""PostgreSQL behind a pooler that gives each transaction another connection to the server."""

import asyncio
import re
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from registry.heartbeats import Heartbeats
from registry.metric_windows import MetricWindows
from registry.postgres import Database
from registry.prediction_log import PredictionLog
from registry.store import RegistryStore
from registry.worker_heartbeat import WorkerHeartbeat
from tests.support.models.served_model import predictions_of, serve_model
from tests.support.promotions.events import event, spec
from tests.support.stack.command import headrace
from tests.support.stack.pooler import Pooler, find_pooler
from tests.support.stack.services import MakeTopics, StackAddresses, execute
from tests.support.worker.asking import PARTITIONS, asking
from tests.support.worker.prediction_rows import midnight, until_logged
from tests.support.worker.process import StartWorker

# What a session has that a transaction does not bring with it.
OF_THE_SESSION = """
    SELECT (SELECT count(*) FROM pg_prepared_statements)
         + (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid())
         + (SELECT count(*) FROM pg_listening_channels())
         + (SELECT count(*) FROM pg_cursors WHERE is_holdable)
         + (SELECT count(*) FROM pg_settings WHERE source = 'session' AND name NOT IN ('client_encoding'))
"""


async def test_nothing_is_left_to_the_session(database: str) -> None:
    """No prepared statement with a name, no lock, no setting: each of them is lost, or found again by others."""
    opened = await Database.connect(database)
    store = RegistryStore(opened)
    await store.apply(event("register", model=spec("v1")))
    await store.epoch()
    await store.load()
    await store.find("m")
    await Heartbeats(opened).record(WorkerHeartbeat("w-1", "boot-1", 1))
    await MetricWindows(opened).forget({10: 3600.0})
    await PredictionLog(opened).drop_days(midnight(2).date())
    async with opened.connection() as connection:
        assert await connection.fetchval(OF_THE_SESSION) == 0
    await opened.close()


@pytest.fixture
async def pooler(stack: StackAddresses, tmp_path: Path) -> AsyncIterator[Pooler]:
    if find_pooler() is None:
        pytest.skip("PgBouncer is not installed; Debian and Ubuntu: `apt install pgbouncer`")
    server = Pooler(tmp_path / "pgbouncer", stack.postgres_dsn)
    server.prepare()
    await asyncio.to_thread(server.start)
    yield server
    server.kill()


async def test_a_worker_behind_pgbouncer_in_transaction_mode(
    pooler: Pooler,
    topics: MakeTopics,
    database: str,
    start_worker: StartWorker,
    tmp_path: Path,
) -> None:
    """All roles: tables are made, promotions decided and followed, requests answered and logged, the verbs answer."""
    model = await serve_model(database, tmp_path, canary_percent=1)
    artifact_dir = str(tmp_path / "artifacts")
    settings = await topics(PARTITIONS, postgres_dsn=pooler.dsn_of(database), artifact_dir=artifact_dir)
    prepared = await headrace("init", settings=settings)
    assert prepared.code == 0, prepared.stderr
    worker = start_worker(settings, "predict,control,monitor,log")
    await worker.ready()
    async with asking(settings) as asked:
        answers = await asked.ask(model, range(50))
        assert [each.predictions for each in answers] == [
            predictions_of(each.model_version, x) for x, each in enumerate(answers)
        ]
        changed = await headrace("promote", model, "v2", "--wait", settings=settings)
        assert changed.code == 0, changed.stderr
        answers = await asked.ask(model, range(50))
        assert [answer.predictions for answer in answers] == [predictions_of("v2", x) for x in range(50)]
    await until_logged(settings, PARTITIONS)
    for verb in ("status", "versions", "history"):
        assert (await headrace(verb, model, settings=settings)).code == 0
    assert worker.count("process exited") == 0
    worker.terminate()
    assert await worker.ended() == 0


async def test_a_missing_right_is_told_with_its_grant(database: str, topics: MakeTopics) -> None:
    """A user of its own, who has no rights in the schema `public`, as is usual since PostgreSQL 15."""
    user = f"plain_{uuid.uuid4().hex}"
    await execute(database, f"CREATE ROLE {user} LOGIN PASSWORD 'plain'")
    try:
        settings = await topics(1, postgres_dsn=re.sub("//[^@]+@", f"//{user}:plain@", database))
        ended = await headrace("init", settings=settings)
        assert ended.code == 1
        assert "HEADRACE_POSTGRES_DSN lacks a right: permission denied for schema public" in ended.stderr
        assert "`GRANT USAGE, CREATE ON SCHEMA public TO USER_NAME`" in ended.stderr
        ended = await headrace("status", "m", settings=settings)
        assert ended.code == 1
        assert "`GRANT SELECT, INSERT, UPDATE, DELETE ON models TO USER_NAME`" in ended.stderr
    finally:
        await execute(database, f"DROP ROLE {user}")
