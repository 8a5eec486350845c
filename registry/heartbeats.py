"""Which workers are live, and how far each has followed the registry."""

from collections.abc import Mapping
from typing import Any

import orjson

from registry.postgres import Database
from registry.worker_heartbeat import WorkerHeartbeat

FORGET_SECONDS = 3600.0

# Times are the database's, written and compared there, so that no worker's clock matters.
_PUT = """
    INSERT INTO worker_heartbeats (worker, boot_id, epoch, behind, older_revisions, unloadable, sent_at)
    VALUES ($1, $2, $3, $4, $5, $6, now())
    ON CONFLICT (worker, boot_id) DO UPDATE
    SET epoch = excluded.epoch, behind = excluded.behind, older_revisions = excluded.older_revisions,
        unloadable = excluded.unloadable, sent_at = excluded.sent_at
"""
_REMOVE = "DELETE FROM worker_heartbeats WHERE worker = $1 AND boot_id = $2"
_ALL = """
    SELECT worker, boot_id, epoch, behind, older_revisions, unloadable,
        extract(epoch FROM now() - sent_at)::float8 AS age_seconds
    FROM worker_heartbeats
    ORDER BY worker, boot_id
"""
_FORGET = "DELETE FROM worker_heartbeats WHERE sent_at < now() - make_interval(secs => $1)"


class Heartbeats:
    """All methods raise RegistryUnavailableError and SetupError, as those of the store."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def record(self, heartbeat: WorkerHeartbeat) -> None:
        """Write a worker's heartbeat over its last one, with the database's time."""
        async with self._database.connection() as connection:
            await connection.execute(
                _PUT,
                heartbeat.worker,
                heartbeat.boot_id,
                heartbeat.epoch,
                orjson.dumps(heartbeat.behind).decode(),
                orjson.dumps(heartbeat.older_revisions).decode(),
                orjson.dumps(heartbeat.unloadable).decode(),
            )

    async def remove(self, worker: str, boot_id: str) -> None:
        """Delete the heartbeat of a worker that ends, and heartbeats older than `FORGET_SECONDS`."""
        async with self._database.connection() as connection:
            await connection.execute(_REMOVE, worker, boot_id)
            await connection.execute(_FORGET, FORGET_SECONDS)

    async def all(self) -> list[tuple[WorkerHeartbeat, float]]:
        """Every heartbeat with its age in seconds, including those of workers that ended without removing theirs.

        Ordered by name and boot. Raises RegistryUnavailableError when the server is read-only too: in an old copy no
        worker seems live.
        """
        async with self._database.primary() as connection:
            rows = await connection.fetch(_ALL)
        return [(_heartbeat(row), row["age_seconds"]) for row in rows]


def _heartbeat(row: Mapping[str, Any]) -> WorkerHeartbeat:
    return WorkerHeartbeat(
        row["worker"],
        row["boot_id"],
        row["epoch"],
        orjson.loads(row["behind"]),
        orjson.loads(row["older_revisions"]),
        orjson.loads(row["unloadable"]),
    )
