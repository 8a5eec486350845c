"""The workers' metrics in PostgreSQL: windows of three resolutions, to which each delta is added once."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import orjson
import structlog
from pydantic import ValidationError

from registry.postgres import Database
from schemas.events import MetricsDelta
from schemas.windows import (
    SequenceWatermark,
    Totals,
    Window,
    WindowKey,
    WorkerBoot,
    count_missing,
    drop_duplicates,
    total,
    windows_of,
)

log = structlog.get_logger()

# Each is logged once, and no more of them.
MAX_LOGGED_WINDOWS = 1000
# The topic does not hold the deltas of workers that ended so long ago.
FORGET_WATERMARKS_SECONDS = 30 * 24 * 3600.0

# One monitor adds the deltas of a partition at a time, also while partitions are reassigned.
_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('metrics:' || $1 || ':' || $2, 0))"
_WATERMARKS = """
    SELECT worker, boot_id, first_seq, last_seq, seen FROM metric_marks WHERE topic = $1 AND partition = $2
"""
_PUT_WATERMARK = """
    INSERT INTO metric_marks (topic, partition, worker, boot_id, first_seq, last_seq, seen, marked_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, now())
    ON CONFLICT (topic, partition, worker, boot_id) DO UPDATE
    SET last_seq = excluded.last_seq, seen = excluded.seen, marked_at = excluded.marked_at
"""
_GET_WINDOWS = """
    SELECT w.resolution_seconds, w.window_start, w.model_name, w.model_version, w.totals
    FROM unnest($1::int[], $2::timestamptz[], $3::text[], $4::text[])
        AS k (resolution_seconds, window_start, model_name, model_version)
    JOIN metric_windows w USING (resolution_seconds, window_start, model_name, model_version)
"""
_PUT_WINDOWS = """
    INSERT INTO metric_windows (resolution_seconds, window_start, model_name, model_version, totals)
    SELECT * FROM unnest($1::int[], $2::timestamptz[], $3::text[], $4::text[], $5::jsonb[])
    ON CONFLICT (model_name, resolution_seconds, window_start, model_version) DO UPDATE
    SET totals = excluded.totals
"""
_READ = """
    SELECT resolution_seconds, window_start, model_name, model_version, totals FROM metric_windows
    WHERE model_name = $1 AND resolution_seconds = $2 AND window_start >= $3 AND window_start < $4
    ORDER BY window_start, model_version
"""
# Not read as windows: a sum needs no histograms, and a stored number that cannot be read counts as none.
_REQUEST_COUNTS = """
    SELECT model_name, sum((totals ->> 'requests')::numeric) FILTER (
        WHERE jsonb_typeof(totals -> 'requests') = 'number'
    ) AS requests
    FROM metric_windows WHERE resolution_seconds = $1 AND window_start >= $2 AND window_start < $3
    GROUP BY model_name
"""
_MODELS = """
    SELECT DISTINCT model_name FROM metric_windows WHERE resolution_seconds = 60 AND window_start >= $1
"""
_ALL_WATERMARKS = "SELECT worker, boot_id, first_seq, last_seq, seen FROM metric_marks WHERE topic = $1"
_FORGET_WINDOWS = """
    DELETE FROM metric_windows WHERE resolution_seconds = $1 AND window_start < now() - make_interval(secs => $2)
"""
_FORGET_WATERMARKS = "DELETE FROM metric_marks WHERE marked_at < now() - make_interval(secs => $1)"


class MetricWindows:
    """All methods raise RegistryUnavailableError and SetupError, as those of the store do."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._unreadable: set[WindowKey] = set()

    async def add(self, topic: str, partition: int, deltas: Sequence[MetricsDelta]) -> list[MetricsDelta]:
        """Add the deltas of a partition that were not added before, in one transaction, and return them.

        A stored window that cannot be read is replaced by what these deltas counted.
        """
        async with self._database.connection() as connection, connection.transaction():
            await connection.execute(_LOCK, topic, str(partition))
            if not all(delta.model_name for delta in deltas):
                # Every partition has deltas of models that are not registered. Their windows are one.
                await connection.execute(_LOCK, topic, "")
            watermarks = {
                (row["worker"], row["boot_id"]): SequenceWatermark(
                    row["first_seq"], row["last_seq"], row["seen"]
                )
                for row in await connection.fetch(_WATERMARKS, topic, partition)
            }
            new, advanced = drop_duplicates(deltas, watermarks)
            if not new:
                return []
            added = windows_of(new)
            columns = _columns(list(added))
            known = {
                _key(row): totals
                for row in await connection.fetch(_GET_WINDOWS, *columns)
                if (totals := self._totals(row)) is not None
            }
            sums = [
                total([known[key], *parts] if key in known else parts).model_dump_json()
                for key, parts in added.items()
            ]
            await connection.execute(_PUT_WINDOWS, *columns, sums)
            await connection.executemany(
                _PUT_WATERMARK,
                [
                    (topic, partition, *boot, watermark.first_seq, watermark.last_seq, watermark.seen)
                    for boot, watermark in advanced.items()
                ],
            )
        return new

    async def read(
        self, model_name: str, resolution_seconds: int, since: datetime, until: datetime
    ) -> list[Window]:
        """The windows of a model that begin at `since` or later and before `until`, ordered by their start.

        A window that cannot be read is logged and left out.
        """
        async with self._database.connection() as connection:
            rows = await connection.fetch(_READ, model_name, resolution_seconds, since, until)
        return [
            Window(
                resolution_seconds=row["resolution_seconds"],
                start=row["window_start"],
                model_name=row["model_name"],
                model_version=row["model_version"],
                totals=totals,
            )
            for row in rows
            if (totals := self._totals(row)) is not None
        ]

    def _totals(self, row: Mapping[str, Any]) -> Totals | None:
        try:
            return Totals.model_validate(orjson.loads(row["totals"]))
        except ValidationError as error:
            key = _key(row)
            if key not in self._unreadable and len(self._unreadable) < MAX_LOGGED_WINDOWS:
                self._unreadable.add(key)
                log.warning(
                    "stored metrics cannot be read; the window is skipped",
                    window=[*map(str, key)],
                    reason=str(error).partition("\n")[0],
                )
            return None

    async def models(self, since: datetime) -> list[str]:
        """The names of the models with a window of one minute that begins at `since` or later."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(_MODELS, since)
        return [row["model_name"] for row in rows]

    async def request_counts(
        self, resolution_seconds: int, since: datetime, until: datetime
    ) -> dict[str, int]:
        """The requests of each model in the windows that begin at `since` or later and before `until`.

        A model without windows is left out.
        """
        async with self._database.connection() as connection:
            rows = await connection.fetch(_REQUEST_COUNTS, resolution_seconds, since, until)
        return {row["model_name"]: int(row["requests"] or 0) for row in rows}

    async def missing_deltas(self, topic: str) -> Mapping[WorkerBoot, int]:
        """How many deltas are missing of each worker process. Deltas that are still on their way count as missing."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(_ALL_WATERMARKS, topic)
        watermarks: dict[WorkerBoot, list[SequenceWatermark]] = defaultdict(list)
        for row in rows:
            watermarks[row["worker"], row["boot_id"]].append(
                SequenceWatermark(row["first_seq"], row["last_seq"], row["seen"])
            )
        return {boot: missing for boot, each in watermarks.items() if (missing := count_missing(each))}

    async def forget(self, keep_seconds: Mapping[int, float]) -> None:
        """Delete windows older than `keep_seconds` of their resolution, and watermarks older than 30 days."""
        async with self._database.connection() as connection:
            for resolution_seconds, seconds in keep_seconds.items():
                await connection.execute(_FORGET_WINDOWS, resolution_seconds, seconds)
            await connection.execute(_FORGET_WATERMARKS, FORGET_WATERMARKS_SECONDS)


def _columns(keys: Sequence[WindowKey]) -> list[list[object]]:
    return [list(column) for column in zip(*keys, strict=True)]


def _key(row: Mapping[str, Any]) -> WindowKey:
    return WindowKey(row["resolution_seconds"], row["window_start"], row["model_name"], row["model_version"])
