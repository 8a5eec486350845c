"""The prediction log in PostgreSQL: a table with a partition for each day, and each request in it once.

A repeated response is recognised by its request's topic, partition, offset and id, which are the same in every
response. (The id is needed because the offsets of a topic that is deleted and created again start at 0.) The day is
no part of the recognition: a repeat after midnight has another day, and a response does not say when its request was
first answered. A unique key of a partitioned table holds within one day only, so the writer looks for the rows in
all days first, in the same transaction. No other writer can add them in between: a request and all its responses
have one partition number, and a lock admits one writer for each number. (While somebody adds partitions,
repeats of one request may have two numbers for a moment.) Within a day the unique key refuses repeats
too.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import date, datetime, timedelta
from typing import Any

import asyncpg

from registry.logged_predictions import LoggedPrediction, OffsetRange, RequestKey, offset_ranges
from registry.postgres import Database, translated
from schemas.errors import HeadraceError, SetupError

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
# Attaching a finished table does not wait for readers of the other partitions; creating one as a partition does.
_MAKE_DAY = """
    CREATE TABLE {name} (
        LIKE prediction_log INCLUDING DEFAULTS,
        CHECK (responded_at >= '{day} 00:00Z' AND responded_at < '{next_day} 00:00Z')
    );
    ALTER TABLE prediction_log ATTACH PARTITION {name} FOR VALUES FROM ('{day}') TO ('{next_day}');
"""
# Dropping a partition waits for readers, and new readers wait behind it. So it gives up after a second; the caller
# tries again later.
_DROP_DAY = "SET LOCAL lock_timeout = '1s'; DROP TABLE IF EXISTS {name}"

_COLUMNS = ", ".join(LoggedPrediction._fields)
_STAGING = "prediction_log_staging"
# Created once for each connection. PostgreSQL does not write a temporary table to its journal.
_MAKE_STAGING = f"""
    CREATE TEMP TABLE IF NOT EXISTS {_STAGING} ON COMMIT DELETE ROWS AS
    SELECT {_COLUMNS} FROM prediction_log WITH NO DATA
"""  # noqa: S608  # names of ours
_ADD = f"""
    INSERT INTO prediction_log ({_COLUMNS}) SELECT {_COLUMNS} FROM pg_temp.{_STAGING} ON CONFLICT DO NOTHING
"""  # noqa: S608  # names of ours


class PredictionLog:
    """All methods raise RegistryUnavailableError and SetupError, as those of the store do."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, partition: int, rows: Sequence[LoggedPrediction]) -> int:
        """Add the rows that are not in the log, in one transaction; return how many were added.

        `partition` is the number of the responses' partition, which is also that of their requests. Partitions of
        days that do not exist are created.
        """
        first = {row.key: row for row in reversed(rows)}
        # Sorted, so that the index grows at its end, which is cheap.
        keys = sorted(first)
        async with self._database.connection() as connection, connection.transaction():
            await connection.execute(_MAKE_STAGING)
            await connection.execute(_LOCK, str(partition))
            # This locks the days too: none is dropped before the rows are added.
            known = await _known(connection, offset_ranges(keys))
            new = [first[key] for key in keys if key not in known]
            await _make_days(connection, {row.day for row in new})
            await connection.copy_records_to_table(
                _STAGING, schema_name="pg_temp", columns=LoggedPrediction._fields, records=new
            )
            added: str = await connection.execute(_ADD)
        return int(added.rpartition(" ")[2])

    async def make_days(self, first: date, last: date) -> list[date]:
        """Create the missing partitions of the days from `first` to `last`, and return their days.

        A day that cannot be created does not keep the others. Then the first such error is raised at the end.
        """
        days = {first + timedelta(days=number) for number in range((last - first).days + 1)}
        async with self._database.connection() as connection:
            return await _each_day(
                connection, days - await _days(connection), lambda day: _make_days(connection, {day})
            )

    async def drop_days(self, before: date) -> list[date]:
        """Drop the partitions of all days before one, and return their days.

        A day that cannot be dropped stays, and does not keep the others: a reader holds it for longer than a second,
        or a view depends on it. Then the first such error is raised at the end.
        """
        async with self._database.connection() as connection:
            return await _each_day(
                connection,
                {day for day in await _days(connection) if day < before},
                lambda day: _drop_day(connection, day),
            )


async def _each_day(
    connection: Any, days: Iterable[date], change: Callable[[date], Awaitable[object]]
) -> list[date]:
    """Change each day in a transaction of its own, also after an error of another; then raise the first error."""
    changed = []
    first_error: HeadraceError | None = None
    for day in sorted(days):
        try:
            with translated():
                async with connection.transaction():
                    await change(day)
        except HeadraceError as error:
            first_error = first_error or error
        else:
            changed.append(day)
    if first_error is not None:
        raise first_error
    return changed


async def _drop_day(connection: Any, day: date) -> None:
    name = day.strftime(_DAY_NAME)
    try:
        await connection.execute(_DROP_DAY.format(name=name))
    except asyncpg.DependentObjectsStillExistError as error:
        raise SetupError(f"{name} stays until what depends on it is dropped: {error.detail}") from None


async def _known(connection: Any, ranges: Iterable[OffsetRange]) -> set[RequestKey]:
    return {
        (asked.topic, asked.partition, *found)
        for asked in ranges
        for found in await connection.fetch(_KNOWN, *asked)
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
            raise SetupError(
                f"the table {name} is no partition of prediction_log; rename or drop it"
            ) from None
    return missing
