"""A group of workers for each test, and a PostgreSQL that a test may stop and start on the same address."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from deploy.local.postgres import Postgres
from registry.migrate import migrate
from tests.support.models.served_model import serve_model
from tests.support.stack.services import MakeTopics, own_server
from tests.support.worker.group import MakeGroup, WorkerGroup
from tests.support.worker.process import StartWorker
from tests.support.worker.traffic import PARTITIONS


@pytest.fixture
def make_group(topics: MakeTopics, database: str, start_worker: StartWorker, tmp_path: Path) -> MakeGroup:
    """What makes a group with further settings, for a model with `timeout_ms` and two versions."""

    async def make(*, timeout_ms: int = 2000, **settings: Any) -> WorkerGroup:
        dsn = settings.setdefault("postgres_dsn", database)
        model = await serve_model(dsn, tmp_path, canary_percent=20, timeout_ms=timeout_ms)
        artifact_dir = str(tmp_path / "artifacts")
        return WorkerGroup(
            await topics(PARTITIONS, artifact_dir=artifact_dir, metrics_interval_seconds=0.25, **settings),
            model,
            start_worker,
        )

    return make


@pytest.fixture
async def own_postgres(in_containers: bool, tmp_path: Path) -> AsyncIterator[Postgres]:
    """A PostgreSQL with an empty registry; takes 2 s."""
    with own_server("postgres", tmp_path / "postgres", in_containers=in_containers) as server:
        await migrate(server.dsn)
        yield server
