"""A registry that is restored from a backup: whoever follows it drops the models that it does not have any more."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest

from registry.alert_rules import AlertRules
from registry.follower import EpochFollower
from registry.postgres import Database
from registry.retry import until_reachable
from registry.store import RegistryStore
from streams.dashboard.registry_reader import PageReader
from streams.monitoring.followed_models import NO_ROUTE, FollowedModels
from streams.serving.active_tables import ActiveTables
from streams.serving.refresh import ServingRefresher
from tests.support.deadline import wait_until
from tests.support.models.served_model import apply
from tests.support.models.served_versions import RecordingBackend
from tests.support.promotions.events import event, publish, spec
from tests.support.stack.services import MakeTopics, StackAddresses, execute
from tests.support.worker.process import StartWorker
from tests.support.worker.version_loading import version_loader


class Backup:
    """A copy of a database, to which it can be restored."""

    def __init__(self, stack: StackAddresses, dsn: str) -> None:
        self._server = stack.postgres_dsn
        self._name = urlsplit(dsn).path.removeprefix("/")
        self._copy = f"{self._name}_backup"

    async def take(self) -> None:
        await execute(self._server, f"CREATE DATABASE {self._copy} TEMPLATE {self._name}")

    async def restore(self) -> None:
        """Ends every connection to the database."""
        await execute(self._server, f"DROP DATABASE {self._name} WITH (FORCE)")
        await execute(self._server, f"CREATE DATABASE {self._name} TEMPLATE {self._copy}")

    async def drop(self) -> None:
        await execute(self._server, f"DROP DATABASE {self._copy} WITH (FORCE)")


@pytest.fixture
async def backup(stack: StackAddresses, database: str) -> AsyncIterator[Backup]:
    """A backup in which `m` is served by v1; since then `m` got v2, and `late` was registered and served."""
    backup = Backup(stack, database)
    await apply(database, event("register", model=spec("v1")), event("promote", version="v1"))
    await backup.take()
    await apply(database, event("register", model=spec("v2")), event("promote", version="v2"))
    await apply(database, event("register", "late", model=spec("v1")), event("promote", "late", version="v1"))
    yield backup
    await backup.drop()


@asynccontextmanager
async def opened(dsn: str) -> AsyncIterator[Database]:
    database = await Database.connect(dsn)
    try:
        yield database
    finally:
        await database.close()


async def test_a_worker_serves_the_models_of_the_backup(database: str, backup: Backup) -> None:
    async def load(*_: object) -> RecordingBackend:
        return RecordingBackend()

    async with opened(database) as registry:
        store, tables = RegistryStore(registry), ActiveTables()
        refresher = ServingRefresher(
            EpochFollower(store.epoch, store.load),
            tables,
            version_loader(load),
            poll_seconds=1.0,
            stale_after_seconds=5.0,
        )

        async def served() -> dict[str, str]:
            await until_reachable(refresher.refresh, waiting="tests")
            await refresher.wait_for_loads()
            models = tables.current.models
            return {name: model.production.spec.version for name, model in models.items() if model.production}

        assert await served() == {"m": "v2", "late": "v1"}
        await backup.restore()
        assert await served() == {"m": "v1"}
        assert (tables.current.epoch, tables.current.behind) == (2, {})
        await refresher.close()


async def test_a_monitor_forgets_the_routes_that_the_backup_does_not_have(
    database: str, backup: Backup
) -> None:
    """No rule that needs a route, as `no_traffic`, is evaluated for a model that is gone."""
    async with opened(database) as registry:
        followed = FollowedModels(RegistryStore(registry), AlertRules(registry))
        assert followed.route_of("late") is None
        await followed.refresh()
        assert followed.route_of("m") == ({"v2": 1.0}, "v2", "v1")
        assert followed.route_of("late") == ({"v1": 1.0}, "v1", None)
        await backup.restore()
        await until_reachable(followed.refresh, waiting="tests")
        assert followed.route_of("m") == ({"v1": 1.0}, "v1", None)
        assert followed.route_of("late") == NO_ROUTE


async def test_the_page_shows_the_models_of_the_backup(database: str, backup: Backup) -> None:
    async with opened(database) as registry:
        reader = PageReader(registry)
        seen = await reader.read([()])
        assert (list(seen.model_names), set(seen.models)) == (["late", "m"], {"late", "m"})
        await backup.restore()
        seen = await until_reachable(lambda: reader.read([(), ("late",)]), waiting="tests")
        assert (seen.epoch, list(seen.model_names), set(seen.models)) == (2, ["m"], {"m"})
        assert [change.action for change in seen.models["m"].changes] == ["register", "promote"]


async def test_a_new_group_decides_the_promotions_since_the_backup(
    topics: MakeTopics, stack: StackAddresses, database: str, start_worker: StartWorker
) -> None:
    """Those that the backup has change nothing, and the audit trail has each event once."""
    settings = await topics(1, postgres_dsn=database)
    backup = Backup(stack, database)
    before = [event("register", model=spec("v1")), event("promote", version="v1")]
    since = [event("register", model=spec("v2")), event("promote", version="v2"), event("rollback")]

    async def decided(group_id: str, at: int) -> list[str]:
        """The events of the audit trail when a worker of the group has brought the registry to an epoch."""
        worker = start_worker(settings.model_copy(update={"control_group_id": group_id}), roles="control")
        async with opened(database) as registry:
            await wait_until(lambda: _is_at(RegistryStore(registry), at), f"the epoch {at}")
            async with registry.connection() as connection:
                rows = await connection.fetch(
                    "SELECT event_id FROM promotion_audit ORDER BY applied_at, event_id"
                )
        worker.terminate()
        assert await worker.ended() == 0
        return [row["event_id"] for row in rows]

    await publish(settings, *before)
    await decided(settings.control_group_id, len(before))
    await backup.take()
    try:
        await publish(settings, *since)
        await decided(settings.control_group_id, len(before) + len(since))
        await backup.restore()
        assert await decided(f"{settings.control_group_id}-2", len(before) + len(since)) == [
            one.event_id for one in [*before, *since]
        ]
    finally:
        await backup.drop()


async def _is_at(store: RegistryStore, epoch: int) -> bool:
    return await store.epoch() == epoch
