"""The registry's schema: numbered SQL files, applied once each, in their order.

Each file is one transaction together with its row in `schema_migrations`, which keeps the file's
SHA-256. Every transaction holds the same advisory lock, so any number of runners may start at once. An applied
file never changes: what is to be different comes in a new one.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

import asyncpg

from registry.postgres import CONNECT_TIMEOUT_SECONDS, translated
from schemas.errors import SetupError

FILE_NAME = re.compile(r"^\d{4}_[a-z0-9_]+\.sql$")
# Any constant will do that no other program on this database uses: "headrace" in ASCII.
ADVISORY_LOCK = int.from_bytes(b"headrace", "big")
# A migration may rewrite a table, and waits for the ones of other runners.
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
    """One file: its name begins with its number."""

    name: str
    sql: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()


def packaged_migrations() -> list[Migration]:
    """The files of this program, in order; also from an installed wheel."""
    folder = files("registry") / "migrations"
    return [
        Migration(entry.name, entry.read_text(encoding="utf-8"))
        for entry in sorted(folder.iterdir(), key=lambda entry: entry.name)
        if FILE_NAME.match(entry.name)
    ]


def next_migration(migrations: Sequence[Migration], applied: Sequence[tuple[str, str]]) -> Migration | None:
    """PURE. The first file that is not applied yet; `applied` are names and checksums in order.

    Raises SetupError when what is applied is not what the first files say.
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
    """Bring a database to this program's schema; return the names of the files applied now.

    Raises SetupError when the database holds something else than the first of these files, and
    RegistryUnavailableError when it does not answer. What was applied before an error stays.
    """
    wanted = packaged_migrations() if migrations is None else migrations
    done: list[str] = []
    with translated():
        connection = await asyncpg.connect(
            dsn, timeout=CONNECT_TIMEOUT_SECONDS, command_timeout=MIGRATION_TIMEOUT_SECONDS
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
