"""The connection to PostgreSQL, and what its errors mean here: come back later, or change the set-up."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Self

import asyncpg

from schemas.errors import RegistryUnavailableError, SetupError

CONNECT_TIMEOUT_SECONDS = 5.0
COMMAND_TIMEOUT_SECONDS = 5.0
# A worker needs one to poll, one to load and one for its heartbeat; a control worker needs one.
POOL_CONNECTIONS = 4

# SQLSTATE classes and codes (PostgreSQL manual, appendix A) that pass by themselves: connection
# lost, transaction to be repeated, out of resources, shutting down or starting, I/O error; and a lock not
# got in time, and a standby that was asked to write before it was promoted.
PASSING_CLASSES = frozenset({"08", "40", "53", "57", "58"})
PASSING_CODES = frozenset({"55P03", "25006"})
SCHEMA_CODES = frozenset({"42P01", "42703", "42883"})
# Wrong password or user, no such database, no right to it.
ACCESS_CLASSES = frozenset({"28", "3D"})
ACCESS_CODES = frozenset({"42501"})


@contextmanager
def translated() -> Iterator[None]:
    """Turn what asyncpg raises into RegistryUnavailableError or SetupError.

    What is left, broken constraints and wrong values, is for the caller to know or a fault of ours.
    """
    try:
        yield
    except asyncpg.ClientConfigurationError as error:
        raise SetupError(f"HEADRACE_POSTGRES_DSN cannot be used: {error}") from error
    except asyncpg.PostgresError as error:
        code = error.sqlstate or ""
        if code[:2] in PASSING_CLASSES or code in PASSING_CODES:
            raise RegistryUnavailableError(f"PostgreSQL does not answer: {error}") from error
        if code[:2] in ACCESS_CLASSES or code in ACCESS_CODES:
            raise SetupError(f"PostgreSQL refuses HEADRACE_POSTGRES_DSN: {error}") from error
        if code in SCHEMA_CODES:
            raise SetupError(
                f"the registry's tables are missing or old ({error}); run `headrace init`"
            ) from error
        raise
    except TimeoutError as error:
        raise RegistryUnavailableError("PostgreSQL does not answer in time") from error
    # A connection that the server closes at the moment in which it is used ends in an internal error.
    except (asyncpg.InterfaceError, asyncpg.InternalClientError, OSError) as error:
        raise RegistryUnavailableError(f"PostgreSQL does not answer: {error}") from error


class Database:
    """A pool of connections, for whatever reads and writes the registry in one process."""

    def __init__(self, pool: asyncpg.Pool, connect_timeout_seconds: float) -> None:
        self._pool = pool
        self._connect_timeout_seconds = connect_timeout_seconds

    @classmethod
    async def connect(
        cls,
        dsn: str,
        *,
        connect_timeout_seconds: float = CONNECT_TIMEOUT_SECONDS,
        command_timeout_seconds: float = COMMAND_TIMEOUT_SECONDS,
    ) -> Self:
        """Open a pool; `command_timeout_seconds` bounds each statement.

        Raises RegistryUnavailableError, or SetupError when the DSN cannot be used.
        """
        with translated():
            # No minimum: the pool would try to keep it while the server is away, and log each failure.
            pool = await asyncpg.create_pool(
                dsn,
                min_size=0,
                max_size=POOL_CONNECTIONS,
                timeout=connect_timeout_seconds,
                command_timeout=command_timeout_seconds,
            )
        database = cls(pool, connect_timeout_seconds)
        async with database.connection():
            return database

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Any]:
        """A connection for one piece of work; what asyncpg raises in the block is translated."""
        with translated():
            async with self._pool.acquire(timeout=self._connect_timeout_seconds) as connection:
                yield connection

    async def close(self) -> None:
        """Close all connections, by force those that do not end in time."""
        try:
            async with asyncio.timeout(self._connect_timeout_seconds):
                await self._pool.close()
        except TimeoutError:
            self._pool.terminate()
