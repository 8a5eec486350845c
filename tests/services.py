"""The stack that a test run starts once, and what its fixtures hand to tests."""

import asyncio
import json
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import asyncpg

from deploy.local.stack import LocalStack
from registry.migrate import migrate
from streams.settings import Settings

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

    def __init__(self, folder: Path, *, controls: bool) -> None:
        self.folder = folder
        self.controls = controls
        self._stack: LocalStack | None = None

    @property
    def wanted(self) -> Path:
        return self.folder / "wanted"

    def start(self, report: Callable[[str], None]) -> None:
        if self._stack is not None:
            return
        stack = LocalStack(self.folder / "stack", report)
        stack.start()
        self._stack = stack
        addresses = StackAddresses(
            stack.kafka_bootstrap, stack.postgres_dsn, stack.redis_url, stack.postgres.dsn_of(TEMPLATE)
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

    @property
    def _addresses(self) -> Path:
        return self.folder / "addresses.json"


MakeTopics = Callable[..., Awaitable[Settings]]


async def _make_template(addresses: StackAddresses) -> None:
    await execute(addresses.postgres_dsn, f"CREATE DATABASE {TEMPLATE}")
    await migrate(addresses.template_dsn)


async def execute(dsn: str, statement: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
