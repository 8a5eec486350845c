"""Connections to PostgreSQL.

Its errors become RegistryUnavailableError (try later), SetupError (change the set-up), DataRefusedError (a value that
cannot be stored), or RegistryFaultError: the lists of SQLSTATEs here have what was thought of, and an error outside of
them must not end the process.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Self

import asyncpg

from schemas.errors import DataRefusedError, RegistryFaultError, RegistryUnavailableError, SetupError

CONNECT_TIMEOUT_SECONDS = 5.0
COMMAND_TIMEOUT_SECONDS = 5.0
# A worker needs one to poll, one to load and one for its heartbeat; a control worker needs one.
POOL_CONNECTIONS = 4

# A pooler such as PgBouncer in transaction mode gives each transaction to any connection to the server. A prepared
# statement with a name would be there already, or not; one without a name lasts as long as its transaction.
NO_NAMED_STATEMENTS = 0

# SQLSTATE classes and codes (PostgreSQL manual, appendix A) of transient errors: connection lost, serialization
# failure, insufficient resources, shutting down or starting, I/O error; lock timeout.
TRANSIENT_CLASSES = frozenset({"08", "40", "53", "57", "58"})
TRANSIENT_CODES = frozenset({"55P03"})
# A write to a standby that is not promoted yet, or what `primary` says of such a server.
READ_ONLY_CODE = "25006"
SCHEMA_CODES = frozenset({"42P01", "42703", "42883"})
# Wrong user or password, no such database.
ACCESS_CLASSES = frozenset({"28", "3D"})
NO_RIGHT_CODE = "42501"
# What PostgreSQL says and what gives the right, for its messages in English.
_GRANTS = (
    (r"denied for schema (\S+)", "GRANT USAGE, CREATE ON SCHEMA {} TO USER_NAME"),
    (r"denied to create temporary tables in database (.+)", "GRANT TEMPORARY ON DATABASE {} TO USER_NAME"),
    (r"denied for database (.+)", "GRANT CONNECT, TEMPORARY ON DATABASE {} TO USER_NAME"),
    (r"denied for (?:table|relation|view) (\S+)", "GRANT SELECT, INSERT, UPDATE, DELETE ON {} TO USER_NAME"),
    (r"denied for sequence (\S+)", "GRANT USAGE ON SEQUENCE {} TO USER_NAME"),
    (r"must be owner of (?:table|relation|view) (\S+)", "ALTER TABLE {} OWNER TO USER_NAME"),
)
# Data exception, which asyncpg raises by itself too, and a limit of PostgreSQL exceeded.
DATA_CLASSES = frozenset({"22", "54"})


@contextmanager
def translated() -> Iterator[None]:
    """Raise an error of Headrace for each that asyncpg raises in the block."""
    try:
        yield
    except asyncpg.ClientConfigurationError as error:
        raise SetupError(f"HEADRACE_POSTGRES_DSN cannot be used: {error}") from error
    except asyncpg.PostgresError as error:
        code = error.sqlstate or ""
        if code[:2] in TRANSIENT_CLASSES or code in TRANSIENT_CODES:
            raise RegistryUnavailableError(f"PostgreSQL does not answer: {error}") from error
        if code == READ_ONLY_CODE:
            raise RegistryUnavailableError(
                "PostgreSQL is read-only, as a standby is; HEADRACE_POSTGRES_DSN must name the primary"
            ) from error
        if code == NO_RIGHT_CODE:
            raise SetupError(
                f"the user of HEADRACE_POSTGRES_DSN lacks a right: {error}; {grant_for(str(error))}"
            ) from error
        if code[:2] in ACCESS_CLASSES:
            raise SetupError(f"PostgreSQL refuses HEADRACE_POSTGRES_DSN: {error}") from error
        if code[:2] in DATA_CLASSES:
            raise DataRefusedError(f"PostgreSQL refuses a value: {error}") from error
        if code in SCHEMA_CODES:
            raise SetupError(
                f"the registry's tables are missing or old ({error}); run `headrace init`"
            ) from error
        raise RegistryFaultError(f"PostgreSQL failed unexpectedly (SQLSTATE {code}): {error}") from error
    except TimeoutError as error:
        raise RegistryUnavailableError("PostgreSQL does not answer in time") from error
    # asyncpg raises an internal error when the server closes a connection while it is used.
    except (asyncpg.InterfaceError, asyncpg.InternalClientError, OSError) as error:
        raise RegistryUnavailableError(f"PostgreSQL does not answer: {error}") from error


def grant_for(message: str) -> str:
    """PURE. What the owner of the database is to run, after PostgreSQL said that a right is missing."""
    for pattern, statement in _GRANTS:
        if found := re.search(pattern, message):
            return f"the owner can run `{statement.format(found[1])}` for that user"
    return "docs/operations.md lists the rights"


class Database:
    """The pool of connections to the registry that one process has."""

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
        """Open a pool, and one connection to see that it works. `command_timeout_seconds` bounds each statement.

        Raises RegistryUnavailableError, or SetupError when the DSN cannot be used.
        """
        with translated():
            # No minimum: the pool would try to keep it while the server is down, and log each failure.
            pool = await asyncpg.create_pool(
                dsn,
                statement_cache_size=NO_NAMED_STATEMENTS,
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
        """A connection for the block. Errors of asyncpg in the block are translated.

        After a ReadOnlySQLTransactionError every connection is made anew: behind the same address there may be another
        primary by now.
        """
        with translated():
            async with self._pool.acquire(timeout=self._connect_timeout_seconds) as connection:
                try:
                    yield connection
                except asyncpg.ReadOnlySQLTransactionError:
                    await self._pool.expire_connections()
                    raise

    @asynccontextmanager
    async def primary(self) -> AsyncIterator[Any]:
        """Like `connection`, but raises RegistryUnavailableError when the server is read-only.

        Such a server answers with a copy of the registry that may be old, and that no promotion reaches.
        """
        async with self.connection() as connection:
            # The setting is on in a standby, and in a primary before a switch-over.
            if await connection.fetchval("SELECT current_setting('transaction_read_only')::boolean"):
                raise asyncpg.ReadOnlySQLTransactionError
            yield connection

    async def close(self) -> None:
        """Close all connections, forcibly after the connect timeout."""
        try:
            async with asyncio.timeout(self._connect_timeout_seconds):
                await self._pool.close()
        except TimeoutError:
            self._pool.terminate()
