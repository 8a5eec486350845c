"""Migrations: numbered SQL files, each applied once, in their order.

Each file is applied in one transaction with its row in `schema_migrations`, which stores the file's SHA-256. Every
transaction takes the same advisory lock, so several programs may migrate at the same time. An applied file never
changes: a change of the schema is a new file.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

import asyncpg

from registry.postgres import CONNECT_TIMEOUT_SECONDS, NO_NAMED_STATEMENTS, translated
from schemas.errors import SetupError

FILE_NAME = re.compile(r"^\d{4}_[a-z0-9_]+\.sql$")
# "headrace" in ASCII: any constant that no other program on this database uses.
ADVISORY_LOCK = int.from_bytes(b"headrace", "big")
# A migration may rewrite a table, and waits for the migrations of other programs.
MIGRATION_TIMEOUT_SECONDS = 600.0

LOCK = "SELECT pg_advisory_xact_lock($1)"
CREATE_TABLE = """
    CREATE TABLE IF NOT EXISTS schema_migrations (
        name text PRIMARY KEY,
        sha256 text NOT NULL,
        applied_at timestamptz NOT NULL DEFAULT now()
    )
"""
APPLIED = "SELECT name, sha256 FROM schema_migrations ORDER BY name"
RECORD = "INSERT INTO schema_migrations (name, sha256) VALUES ($1, $2)"


@dataclass(frozen=True, slots=True)
class Migration:
    """One SQL file. Its name begins with its number."""

    name: str
    sql: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()


def packaged_migrations() -> list[Migration]:
    """The SQL files of this package in their order, also from an installed wheel."""
    folder = files("registry") / "migrations"
    return [
        Migration(entry.name, entry.read_text(encoding="utf-8"))
        for entry in sorted(folder.iterdir(), key=lambda entry: entry.name)
        if FILE_NAME.match(entry.name)
    ]


def next_migration(migrations: Sequence[Migration], applied: Sequence[tuple[str, str]]) -> Migration | None:
    """PURE. The first migration that is not applied; `applied` are names and SHA-256 in their order.

    Raises SetupError when the applied migrations are not the first of `migrations`.
    """
    for position, (name, sha256) in enumerate(applied):
        if position >= len(migrations) or migrations[position].name != name:
            raise SetupError(
                f"the database has migration {name}, which this version of Headrace does not know in that "
                "place; use the version that applied it, or a newer one"
            )
        if migrations[position].sha256 != sha256:
            raise SetupError(
                f"migration {name} was changed after it had been applied to this database; "
                "restore the file and put the change into a new migration"
            )
    return migrations[len(applied)] if len(applied) < len(migrations) else None


async def migrate(dsn: str, migrations: Sequence[Migration] | None = None) -> list[str]:
    """Apply the migrations that a database lacks; return their names.

    Raises SetupError when other migrations were applied to the database, and RegistryUnavailableError when it does
    not answer. Migrations that were applied before an error stay applied.
    """
    wanted = packaged_migrations() if migrations is None else migrations
    done: list[str] = []
    with translated():
        connection = await asyncpg.connect(
            dsn,
            statement_cache_size=NO_NAMED_STATEMENTS,
            timeout=CONNECT_TIMEOUT_SECONDS,
            command_timeout=MIGRATION_TIMEOUT_SECONDS,
        )
        try:
            while name := await _apply_next(connection, wanted):
                done.append(name)
        finally:
            await connection.close(timeout=CONNECT_TIMEOUT_SECONDS)
    return done


async def _apply_next(connection: asyncpg.Connection, migrations: Sequence[Migration]) -> str | None:
    async with connection.transaction():
        await connection.execute(LOCK, ADVISORY_LOCK)
        await connection.execute(CREATE_TABLE)
        applied = [(row["name"], row["sha256"]) for row in await connection.fetch(APPLIED)]
        migration = next_migration(migrations, applied)
        if migration is None:
            return None
        await connection.execute(migration.sql)
        await connection.execute(RECORD, migration.name, migration.sha256)
        return migration.name
