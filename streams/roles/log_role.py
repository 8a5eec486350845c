"""The role `log`: reads responses and writes the prediction log in PostgreSQL."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime
from functools import partial

import structlog

from registry.postgres import Database
from registry.prediction_log import PredictionLog
from streams.config.settings import Settings
from streams.kafka.topics import partition_counts
from streams.prediction_log.rows import RowReader, hashed_by
from streams.prediction_log.writer import Writer, kept_days
from streams.process.background import background, periodic, run_each
from streams.process.interpreter import tune_garbage_collector
from streams.prometheus.log_families import LogMetrics
from streams.roles.role_consumer import RoleConsumer, RoleContext

log = structlog.get_logger()

SLICE_MAX_RESPONSES = 10_000
# While PostgreSQL writes one slice, the next one is parsed.
SLICES_IN_FLIGHT = 2
MAINTAIN_PARTITIONS_EACH_SECONDS = 600.0
# One slice is one transaction of many rows, on a machine that may be busy.
COMMAND_TIMEOUT_SECONDS = 30.0


@asynccontextmanager
async def log_role(context: RoleContext) -> AsyncIterator[None]:
    """Write responses to the prediction log while the block runs."""
    settings = context.settings
    await partition_counts(settings, [settings.topic_responses])
    consumer = RoleConsumer(
        context,
        "log",
        settings.topic_responses,
        group_id=settings.log_group_id,
        slice_max_records=SLICE_MAX_RESPONSES,
        slices_in_flight=SLICES_IN_FLIGHT,
    )
    database = await Database.connect(
        settings.postgres_dsn.get_secret_value(), command_timeout_seconds=COMMAND_TIMEOUT_SECONDS
    )
    try:
        rows = PredictionLog(database)
        writer = Writer(
            rows,
            RowReader(_name_user(settings), keeps_predictions=settings.prediction_log_keeps_predictions),
            keep_days=settings.prediction_log_keep_days,
            clock=_now,
        )
        # Before the first slice, whose objects it would collect and freeze.
        tune_garbage_collector()
        async with (
            consumer.reading(writer.process, attempts=lambda: writer.attempts),
            background(
                periodic(
                    partial(_maintain_partitions, rows, settings),
                    interval_seconds=MAINTAIN_PARTITIONS_EACH_SECONDS,
                    failed_event="prediction log partitions not maintained",
                ),
            ),
        ):
            context.metrics.add(LogMetrics(writer).read)
            log.info("log role started", topic=settings.topic_responses)
            yield
        log.info(
            "predictions logged",
            written=writer.written,
            repeats=writer.repeats,
            unreadable=writer.unreadable,
            not_kept=writer.not_kept,
        )
    finally:
        await database.close()


def _now() -> datetime:
    return datetime.now(UTC)


def _name_user(settings: Settings) -> Callable[[str], str]:
    if settings.prediction_log_hash_key is None or settings.prediction_log_user_ids == "plain":
        return str
    return hashed_by(settings.prediction_log_hash_key.get_secret_value().encode())


async def _maintain_partitions(rows: PredictionLog, settings: Settings) -> None:
    """Create the daily partitions ahead of time, and drop those older than `prediction_log_keep_days`."""
    first, last = kept_days(_now(), settings.prediction_log_keep_days)
    created: list[date] = []
    dropped: list[date] = []

    async def create() -> None:
        created.extend(await rows.make_days(_now().date(), last))

    async def drop() -> None:
        dropped.extend(await rows.drop_days(first))

    try:
        await run_each(create, drop)
    finally:
        if created or dropped:
            log.info(
                "prediction log partitions changed",
                created=[day.isoformat() for day in created],
                dropped=[day.isoformat() for day in dropped],
            )
