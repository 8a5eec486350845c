"""A PostgreSQL that is read-only may be an old copy: nothing that follows the registry believes it."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from registry.alert_rules import AlertRules
from registry.heartbeats import Heartbeats
from registry.postgres import Database
from registry.store import RegistryStore
from registry.worker_heartbeat import WorkerHeartbeat
from schemas.errors import RegistryUnavailableError
from streams.config.settings import Settings
from streams.dashboard.registry_reader import PageReader
from streams.monitoring.followed_models import FollowedModels
from streams.promotions.convergence import wait_for_epoch
from tests.support.models.served_model import apply
from tests.support.promotions.events import event, spec
from tests.support.stack.command import headrace


@pytest.fixture
async def frozen(database: str) -> AsyncIterator[Database]:
    """A registry with a model and a live worker, whose server has become read-only."""
    await apply(database, event("register", model=spec("v1")), event("promote", version="v1"))
    writable = await Database.connect(database)
    await Heartbeats(writable).record(WorkerHeartbeat("w-1", "boot-1", 2))
    await writable.close()
    await set_read_only(database, read_only=True)
    frozen = await Database.connect(database)
    yield frozen
    await frozen.close()


async def set_read_only(dsn: str, *, read_only: bool) -> None:
    """For the sessions that begin later."""
    connection = await asyncpg.connect(dsn, server_settings={"default_transaction_read_only": "off"})
    name = await connection.fetchval("SELECT current_database()")
    await connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = {read_only}")
    await connection.close()


async def test_no_follower_believes_a_copy(frozen: Database) -> None:
    """The epoch of workers, the routes and rules of the monitor, what the page shows, and whether workers are live."""
    store = RegistryStore(frozen)
    models = FollowedModels(store, AlertRules(frozen))
    readings = wait_for_epoch(Heartbeats(frozen), "m", 2, timeout_seconds=0)
    for reading in (store.epoch(), models.refresh(), PageReader(frozen).read([]), anext(readings)):
        with pytest.raises(RegistryUnavailableError, match="must name the primary"):
            await reading
    assert models.route_of("m") is None


async def test_it_is_believed_again_when_it_is_a_primary(frozen: Database, database: str) -> None:
    """The refusal has closed every connection."""
    store = RegistryStore(frozen)
    with pytest.raises(RegistryUnavailableError):
        await store.epoch()
    await set_read_only(database, read_only=False)
    assert await store.epoch() == 2


@pytest.mark.usefixtures("frozen")
async def test_the_command_says_it(database: str) -> None:
    """Which workers serve a change is unknown then, and nothing can be changed."""
    settings = Settings(postgres_dsn=database)
    for arguments in (("status", "m"), ("promote", "m", "v1", "--direct")):
        ended = await headrace(*arguments, settings=settings)
        assert (ended.code, ended.stdout) == (3, "")
        assert "PostgreSQL is read-only" in ended.stderr
