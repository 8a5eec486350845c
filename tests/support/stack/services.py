"""The stack that a test run starts once, and what its fixtures hand to tests.

Servers are processes of this machine, or containers with `--stack=containers`; tests see no difference.
"""

import asyncio
import json
import shutil
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import asyncpg

from deploy.local.kafka import Kafka
from deploy.local.postgres import Postgres
from deploy.local.redis import Redis
from deploy.local.service import Service
from deploy.local.stack import LocalStack
from registry.migrate import migrate
from streams.config.settings import Settings
from streams.kafka.topics import administration, create_topics, plan_topics
from tests.support.stack.java import start_java_fast

TEMPLATE = "headrace_template"


@dataclass(frozen=True)
class StackAddresses:
    """Where the run's stack is; `postgres_dsn` is its own database, tests clone `database`."""

    kafka_bootstrap: str
    postgres_dsn: str
    redis_url: str
    template_dsn: str


class RunStack:
    """The run's folder, and in the controlling process the stack itself."""

    def __init__(self, folder: Path, *, controls: bool, in_containers: bool) -> None:
        self.folder = folder
        self.controls = controls
        self.in_containers = in_containers
        self._stack: Any = None

    @property
    def wanted(self) -> Path:
        return self.folder / "wanted"

    def start(self, report: Callable[[str], None]) -> None:
        if self._stack is not None:
            return
        stack = self._choose(report)
        stack.start()
        self._stack = stack
        addresses = StackAddresses(
            stack.kafka.bootstrap, stack.postgres.dsn, stack.redis.url, stack.postgres.dsn_of(TEMPLATE)
        )
        asyncio.run(_make_template(addresses))
        self._addresses.write_text(json.dumps(asdict(addresses)))

    def addresses(self) -> StackAddresses:
        return StackAddresses(**json.loads(self._addresses.read_text()))

    def end(self) -> None:
        if self._stack is not None:
            self._stack.stop()
        if self.controls:
            shutil.rmtree(self.folder)

    def _choose(self, report: Callable[[str], None]) -> Any:
        if not self.in_containers:
            start_java_fast(report)
            return LocalStack(self.folder / "stack", report)
        from tests.containers.servers import ContainerStack

        return ContainerStack()

    @property
    def _addresses(self) -> Path:
        return self.folder / "addresses.json"


MakeTopics = Callable[..., Awaitable[Settings]]


@asynccontextmanager
async def own_database(stack: StackAddresses) -> AsyncIterator[str]:
    """The DSN of a database that is there until the block ends, with all migrations applied."""
    name = f"test_{uuid.uuid4().hex}"
    await execute(stack.postgres_dsn, f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
    dsn = stack.template_dsn.replace(f"/{TEMPLATE}", f"/{name}")
    # A copy has the identity of its original.
    await execute(dsn, "UPDATE installation SET installation_id = $1", uuid.uuid4().hex[:16])
    yield dsn
    await execute(stack.postgres_dsn, f"DROP DATABASE {name} WITH (FORCE)")


@asynccontextmanager
async def own_topics(stack: StackAddresses) -> AsyncIterator[MakeTopics]:
    """What creates topics that are there until the block ends; see the fixture `topics`."""
    made: list[Settings] = []
    with TemporaryDirectory(prefix="headrace-artifacts-") as folder:

        async def make(partitions: int = 4, **settings: Any) -> Settings:
            mark = uuid.uuid4().hex[:12]
            names = {name: f"{name.removeprefix('topic_')}-{mark}" for name in _topic_settings()}
            own = Settings.model_validate(
                {
                    "kafka_bootstrap": stack.kafka_bootstrap,
                    "postgres_dsn": stack.postgres_dsn,
                    "redis_url": stack.redis_url,
                    "group_id": f"group-{mark}",
                    "control_group_id": f"control-{mark}",
                    "monitor_group_id": f"monitor-{mark}",
                    "log_group_id": f"log-{mark}",
                    # A load that ends the worker of one test must not concern another one.
                    "artifact_dir": f"{folder}/{mark}",
                    **names,
                    **settings,
                }
            )
            await create_topics(own, partitions)
            made.append(own)
            return own

        yield make
    # A Kafka of the test's own takes its topics with it.
    for own in (own for own in made if own.kafka_bootstrap == stack.kafka_bootstrap):
        async with administration(own) as admin:
            await admin.delete_topics([plan.name for plan in plan_topics(own, 1)])


@contextmanager
def own_server(name: str, folder: Path, *, in_containers: bool) -> Iterator[Any]:
    """A running "kafka", "postgres" or "redis", to stop, kill, pause and start again until the block ends."""
    if in_containers:
        from tests.containers.servers import SERVERS

        container = SERVERS[name]()
        try:
            container.start()
            yield container
        finally:
            container.remove()
    else:
        kinds: dict[str, Callable[[], Service]] = {
            "kafka": lambda: Kafka(folder, None, lambda _: None),
            "postgres": lambda: Postgres(folder),
            "redis": lambda: Redis(folder),
        }
        server = kinds[name]()
        server.prepare()
        server.start()
        yield server
        server.kill()


def _topic_settings() -> list[str]:
    return [name for name in Settings.model_fields if name.startswith("topic_")]


async def _make_template(addresses: StackAddresses) -> None:
    await execute(addresses.postgres_dsn, f"CREATE DATABASE {TEMPLATE}")
    await migrate(addresses.template_dsn)


async def execute(dsn: str, statement: str, *arguments: Any) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(statement, *arguments)
    finally:
        await connection.close()
