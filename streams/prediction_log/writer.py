"""Writes responses to the prediction log in PostgreSQL.

A slice is acknowledged when its rows are committed. Each response has one row, even when it is read again. A record
that is not a response, that PostgreSQL refuses, or of a day that is not kept, is counted, logged and skipped. While PostgreSQL is unavailable
the responses wait in Kafka.
"""

from collections.abc import Callable, Sequence
from datetime import date, datetime, timedelta
from functools import partial

import structlog

from registry.logged_predictions import LoggedPrediction
from registry.prediction_log import PredictionLog
from registry.retry import store_accepted, until_reachable
from schemas.errors import DataRefusedError
from streams.kafka.offset_tracker import Slice
from streams.prediction_log.rows import RowReader

log = structlog.get_logger()

DAYS_AHEAD = 2


def kept_days(now: datetime, keep_days: int) -> tuple[date, date]:
    """PURE. The first and the last day that have a partition; the last one is in the future."""
    today = now.date()
    return today - timedelta(days=keep_days), today + timedelta(days=DAYS_AHEAD)


class Writer:
    """Writes slices of `predict-responses`; `attempts` counts the attempted transactions, for a watchdog.

    `clock` returns the time in UTC.
    """

    def __init__(
        self, rows: PredictionLog, reader: RowReader, *, keep_days: int, clock: Callable[[], datetime]
    ) -> None:
        self._rows = rows
        self._reader = reader
        self._keep_days = keep_days
        self._clock = clock
        self.attempts = 0
        self.written = 0
        self.repeats = 0
        self.unreadable = 0
        self.not_kept = 0

    async def process(self, handled: Slice) -> None:
        """Write the responses of a slice; returns when PostgreSQL has committed them."""
        rows = self._kept(handled, self._read(handled))
        refused: list[DataRefusedError] = []
        if rows:
            added = sum(
                await store_accepted(
                    partial(self._add, handled), rows, refuse=lambda _, error: refused.append(error)
                )
            )
            self.written += added
            self.repeats += len(rows) - len(refused) - added
        if refused:
            self.unreadable += len(refused)
            log.warning(
                "responses cannot be stored",
                records=len(refused),
                partition=handled.partition,
                reason=str(refused[0]),
            )

    async def _add(self, handled: Slice, rows: Sequence[LoggedPrediction]) -> int:
        async def add() -> int:
            self.attempts += 1
            return await self._rows.add(handled.partition.partition, rows)

        return await until_reachable(add, waiting="responses to be logged")

    def _read(self, handled: Slice) -> list[LoggedPrediction]:
        rows = []
        row_of = self._reader.row
        wrong = 0
        for record in handled.records:
            try:
                rows.append(row_of(record))
            except ValueError as error:
                if not wrong:
                    offset, reason = record.offset, str(error)
                wrong += 1
        if wrong:
            self.unreadable += wrong
            log.warning(
                "records are not responses",
                records=wrong,
                partition=handled.partition,
                first_offset=offset,
                reason=reason,
            )
        return rows

    def _kept(self, handled: Slice, rows: list[LoggedPrediction]) -> list[LoggedPrediction]:
        first, last = kept_days(self._clock(), self._keep_days)
        kept = [row for row in rows if first <= row.day <= last]
        if len(kept) < len(rows):
            self.not_kept += len(rows) - len(kept)
            log.warning(
                "responses skipped: their days are not kept",
                records=len(rows) - len(kept),
                partition=handled.partition,
                first_day=first.isoformat(),
                last_day=last.isoformat(),
            )
        return kept
