"""The runner on a real database: once, together with others, and never over changed files."""

import asyncio
import uuid
from collections.abc import AsyncIterator

import asyncpg
import pytest

from registry.migrate import Migration, migrate, packaged_migrations
from schemas.errors import DataRefusedError, RegistryUnavailableError, SetupError
from tests.support.stack.services import StackAddresses

NAMES = [migration.name for migration in packaged_migrations()]


@pytest.fixture
async def empty_database(stack: StackAddresses) -> AsyncIterator[str]:
    """The DSN of a database without any table."""
    name = f"empty_{uuid.uuid4().hex}"
    base = await asyncpg.connect(stack.postgres_dsn)
    await base.execute(f"CREATE DATABASE {name}")
    yield stack.postgres_dsn.rsplit("/", 1)[0] + f"/{name}"
    await base.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await base.close()


async def test_migrations_are_applied_once(empty_database: str) -> None:
    """The second run finds nothing to do."""
    assert await migrate(empty_database) == NAMES
    assert await migrate(empty_database) == []


async def test_runners_that_start_together_apply_each_file_once(empty_database: str) -> None:
    """Eight runners on an empty database: each file is applied by one of them, and none fails."""
    applied = await asyncio.gather(*(migrate(empty_database) for _ in range(8)))
    assert sorted(name for names in applied for name in names) == NAMES


async def test_a_file_changed_after_it_was_applied_is_refused(empty_database: str) -> None:
    """And nothing else is applied either."""
    first, *others = packaged_migrations()
    await migrate(empty_database, [first])
    with pytest.raises(SetupError, match=f"{first.name} was changed"):
        await migrate(empty_database, [Migration(first.name, first.sql + "\n-- tidied"), *others])
    assert await migrate(empty_database) == [migration.name for migration in others]


async def test_a_file_that_fails_leaves_nothing_of_itself(empty_database: str) -> None:
    """A file is one transaction; those before it stay, and the corrected file applies."""
    first = Migration("0001_first.sql", "CREATE TABLE one (a int)")
    broken = Migration("0002_second.sql", "CREATE TABLE two (a int); SELECT 1 / 0;")
    with pytest.raises(DataRefusedError, match="division by zero"):
        await migrate(empty_database, [first, broken])
    corrected = Migration(broken.name, "CREATE TABLE two (a int)")
    assert await migrate(empty_database, [first, corrected]) == [broken.name]


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    """The message names the address that did not answer."""
    with pytest.raises(RegistryUnavailableError, match=r"127\.0\.0\.1"):
        await migrate("postgresql://127.0.0.1:1/headrace")


async def test_a_wrong_password_is_a_matter_of_setup(stack: StackAddresses) -> None:
    """A retry would not help, so the error is not `unavailable`."""
    with pytest.raises(SetupError, match="HEADRACE_POSTGRES_DSN"):
        await migrate(stack.postgres_dsn.replace("://headrace:", "://headrace:wrong"))
