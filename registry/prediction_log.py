"""What was answered, in PostgreSQL: a table with a partition for each day, and each response in it once.

A repeat is recognised by the place of its request, which is the same however often it is answered. (The
request's id is part of it: a topic that was made anew counts its offsets from 0 again.) The day of a repeat is
another one when it comes after midnight, and nothing in a response tells when it was answered first. A unique
key of a partitioned table holds within one day only, so whoever adds rows asks all days for them before,
in the same transaction. Between the question and the answer nobody adds the same rows: a request and all its
responses have one partition number, of which there is one writer at a time, by a lock. Repeats within a day
fail at the key as well, whatever a lock says.
"""

from collections.abc import Iterable, Sequence
from datetime import date, datetime, timedelta
from itertools import pairwise
from typing import Any, NamedTuple

import asyncpg

from registry.postgres import Database
from schemas.errors import SetupError

# Neighbours in one question about what is known; those farther apart would have it answer too much.
SPAN_GAP = 5000

_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('prediction_log:' || $1, 0))"
_KNOWN = """
    SELECT source_offset, request_id FROM prediction_log
    WHERE source_topic = $1 AND source_partition = $2 AND source_offset BETWEEN $3 AND $4
"""
_DAYS = """
    SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = 'prediction_log'::regclass AND c.relname ~ '^prediction_log_[0-9]{8}$'
"""
_DAY_NAME = "prediction_log_%Y%m%d"
# A table that is attached, and not one that is created as a part, waits for nobody who reads the others.
_MAKE_DAY = """
    CREATE TABLE {name} (
        LIKE prediction_log INCLUDING DEFAULTS,
        CHECK (responded_at >= '{day} 00:00Z' AND responded_at < '{next_day} 00:00Z')
    );
    ALTER TABLE prediction_log ATTACH PARTITION {name} FOR VALUES FROM ('{day}') TO ('{next_day}');
"""
# To drop one does wait, and all others behind it: for a second, and then at another time.
_DROP_DAY = "SET LOCAL lock_timeout = '1s'; DROP TABLE IF EXISTS {name}"


class LoggedPrediction(NamedTuple):
    """A row, but for the time at which it is written. Texts hold no NUL."""

    responded_at: datetime
    source_offset: int
    revision: int
    latency_ms: float
    source_partition: int
    day: date
    cached: bool
    fallback: bool
    stale: bool
    source_topic: str
    request_id: str
    model_name: str
    model_version: str
    user_id: str
    input_digest: str | None
    error_code: str | None
    predictions: str | None
    """JSON."""


_COLUMNS = ", ".join(LoggedPrediction._fields)
_STAGING = "prediction_log_staging"
# Once for each connection; nothing of it is written to the journal.
_MAKE_STAGING = f"""
    CREATE TEMP TABLE IF NOT EXISTS {_STAGING} ON COMMIT DELETE ROWS AS
    SELECT {_COLUMNS} FROM prediction_log WITH NO DATA
"""  # noqa: S608  # names of ours
_ADD = f"""
    INSERT INTO prediction_log ({_COLUMNS}) SELECT {_COLUMNS} FROM pg_temp.{_STAGING} ON CONFLICT DO NOTHING
"""  # noqa: S608  # names of ours


Place = tuple[str, int, int, str]
"""Topic, partition and offset of a request, and its id: what a repeat has again."""


class Span(NamedTuple):
    """Requests of one partition, from the first offset to the last."""

    topic: str
    partition: int
    first: int
    last: int


class PredictionLog:
    """All methods raise RegistryUnavailableError and SetupError, as those of the store."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, partition: int, rows: Sequence[LoggedPrediction]) -> int:
        """Add the rows that are not there, in one transaction; returns how many.

        `partition` is the number of the responses' partition, and so of their requests'. Days that are missing
        are made.
        """
        first = {_place(row): row for row in reversed(rows)}
        # The index grows at its end then, which is cheap.
        places = sorted(first)
        async with self._database.connection() as connection, connection.transaction():
            await connection.execute(_MAKE_STAGING)
            await connection.execute(_LOCK, str(partition))
            # It locks the days too: none is dropped until the rows are there.
            known = await _known(connection, spans(places))
            new = [first[place] for place in places if place not in known]
            await _make_days(connection, {row.day for row in new})
            await connection.copy_records_to_table(
                _STAGING, schema_name="pg_temp", columns=LoggedPrediction._fields, records=new
            )
            added: str = await connection.execute(_ADD)
        return int(added.rpartition(" ")[2])

    async def make_days(self, first: date, last: date) -> list[date]:
        """Make the partitions of these days, which are not there yet, and return them."""
        days = {first + timedelta(days=number) for number in range((last - first).days + 1)}
        async with self._database.connection() as connection, connection.transaction():
            return await _make_days(connection, days)

    async def drop_days(self, before: date) -> list[date]:
        """Drop the partitions of the days before one, and return them.

        Raises RegistryUnavailableError too when somebody reads the table for long; the days are left then.
        """
        dropped = []
        async with self._database.connection() as connection:
            for day in sorted(await _days(connection)):
                if day < before:
                    async with connection.transaction():
                        await connection.execute(_DROP_DAY.format(name=day.strftime(_DAY_NAME)))
                    dropped.append(day)
        return dropped


def spans(places: Sequence[Place]) -> list[Span]:
    """PURE. Few spans that have all these places, which are sorted and at least one, and little else."""
    found = []
    start = places[0]
    for before, after in pairwise(places):
        if after[2] - before[2] > SPAN_GAP or after[:2] != before[:2]:
            found.append(Span(*start[:3], before[2]))
            start = after
    return [*found, Span(*start[:3], places[-1][2])]


def _place(row: LoggedPrediction) -> Place:
    return row.source_topic, row.source_partition, row.source_offset, row.request_id


async def _known(connection: Any, asked: Iterable[Span]) -> set[Place]:
    return {
        (span.topic, span.partition, *found)
        for span in asked
        for found in await connection.fetch(_KNOWN, *span)
    }


async def _days(connection: Any) -> set[date]:
    return {
        datetime.strptime(row["relname"], _DAY_NAME).date()  # noqa: DTZ007  # a name without a time
        for row in await connection.fetch(_DAYS)
    }


async def _make_days(connection: Any, wanted: set[date]) -> list[date]:
    if not wanted - await _days(connection):
        return []
    await connection.execute(_LOCK, "days")
    missing = sorted(wanted - await _days(connection))
    for day in missing:
        name = day.strftime(_DAY_NAME)
        try:
            await connection.execute(_MAKE_DAY.format(name=name, day=day, next_day=day + timedelta(days=1)))
        except asyncpg.DuplicateTableError:
            raise SetupError(f"the table {name} is no part of prediction_log; rename or drop it") from None
    return missing
