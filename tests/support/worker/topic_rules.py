"""What must become of a record, by the rule of its topic."""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import asyncpg

from schemas.errors import AnswerError, MalformedRecordError
from schemas.models import PromotionResult
from schemas.windows import read_delta
from streams.config.settings import Settings
from streams.kafka.offset_tracker import Record
from streams.prediction_log.rows import RowReader
from streams.prediction_log.writer import kept_days
from streams.promotions.events import read_event
from streams.serving.requests import RequestContext, parse
from tests.support.worker.kept_worker import Role

MODEL = "m"

_HAS_MARK = """
    SELECT count(*) FROM metric_marks WHERE topic = $1 AND worker = $2 AND boot_id = $3 AND last_seq >= $4
"""
_HAS_ROW = """
    SELECT count(*) FROM prediction_log
    WHERE source_topic = $1 AND source_partition = $2 AND source_offset = $3 AND request_id = $4
"""


class Outcome(StrEnum):
    """What becomes of a record that can be read."""

    ANSWERED = "answered"
    REJECTED = "rejected"
    LETTER = "dead letter"
    COUNTED = "counted in its window"
    LOGGED = "has its row"
    SKIPPED = "skipped, counted and logged"


SKIPPED_EVENTS = {
    Role.MONITOR: {"records are not metrics deltas"},
    Role.LOG: {
        "records are not responses",
        "responses skipped: their days are not kept",
        "responses cannot be stored",
    },
}
"""The events of the log that say how many records a role has skipped, in `records`."""


def expected(role: Role, record: Record, settings: Settings) -> Outcome:
    """PURE, but for the clock. What must become of a record."""
    match role:
        case Role.PREDICT:
            try:
                parse(RequestContext(record), {MODEL}, settings.max_record_bytes)
            except MalformedRecordError:
                return Outcome.LETTER
            except AnswerError:
                pass
            return Outcome.ANSWERED
        case Role.CONTROL:
            read = read_event(record.value, settings.max_record_bytes, datetime.now(UTC))
            return Outcome.REJECTED if isinstance(read, PromotionResult) else Outcome.ANSWERED
        case Role.MONITOR:
            return Outcome.SKIPPED if _delta(record) is None else Outcome.COUNTED
        case Role.LOG:
            return Outcome.SKIPPED if _row(record, settings) is None else Outcome.LOGGED


async def is_stored(
    role: Role, record: Record, settings: Settings, topic: str, database: asyncpg.Connection
) -> bool:
    """Whether PostgreSQL has what must be COUNTED or LOGGED."""
    if role is Role.MONITOR:
        delta = _delta(record)
        return bool(await database.fetchval(_HAS_MARK, topic, delta.worker, delta.boot_id, delta.seq))
    row = _row(record, settings)
    return bool(
        await database.fetchval(
            _HAS_ROW, row.source_topic, row.source_partition, row.source_offset, row.request_id
        )
    )


def _delta(record: Record) -> Any:
    try:
        return read_delta(record.value, record.timestamp)
    except ValueError:
        return None


def _row(record: Record, settings: Settings) -> Any:
    try:
        row = RowReader(str, keeps_predictions=False).row(record)
    except ValueError:
        return None
    first, last = kept_days(datetime.now(UTC), settings.prediction_log_keep_days)
    return row if first <= row.day <= last else None
