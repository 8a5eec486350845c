"""The role `log`: responses in, the prediction log in PostgreSQL."""

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import structlog

from registry.postgres import Database
from registry.prediction_log import PredictionLog
from schemas.errors import RegistryUnavailableError, SetupError
from streams.config.identity import Identity
from streams.config.settings import Settings
from streams.kafka.faust_app import has_joined
from streams.kafka.topics import partition_counts
from streams.prediction_log.rows import RowReader, hashed_by
from streams.prediction_log.writer import Writer, kept_days
from streams.process.background import OnFault, background
from streams.process.http import Web
from streams.prometheus.consumer_families import ConsumerMetrics
from streams.prometheus.control_families import LogMetrics
from streams.prometheus.page import MetricsPage
from streams.roles.ordered_consumer import ordered_app, reading
from streams.roles.predict_role import GC_THRESHOLDS

log = structlog.get_logger()

RESPONSES_A_SLICE = 10_000
# While PostgreSQL writes one, the next is read.
SLICES_AT_ONCE = 2
LOOK_AFTER_DAYS_SECONDS = 600.0
# A slice is a transaction with a thousand rows, on a machine that may be busy.
COMMAND_TIMEOUT_SECONDS = 30.0


@asynccontextmanager
async def log_role(
    settings: Settings, identity: Identity, on_fault: OnFault, web: Web, metrics: MetricsPage
) -> AsyncIterator[None]:
    """Write down what is answered while the block runs."""
    await partition_counts(settings, [settings.topic_responses])
    app = ordered_app(
        settings,
        identity,
        role="log",
        group_id=settings.log_group_id,
        slice_max_records=RESPONSES_A_SLICE,
        at_once=SLICES_AT_ONCE,
        on_fault=on_fault,
    )
    web.ready_when("log: partitions are known", lambda: has_joined(app))
    database = await Database.connect(
        settings.postgres_dsn.get_secret_value(), command_timeout_seconds=COMMAND_TIMEOUT_SECONDS
    )
    try:
        rows = PredictionLog(database)
        writer = Writer(
            rows,
            RowReader(_name_user(settings), keeps_predictions=settings.log_predictions),
            keep_days=settings.log_keep_days,
            clock=_now,
        )
        async with (
            reading(
                app,
                settings.topic_responses,
                writer.process,
                attempts=lambda: writer.attempts,
                at_once=SLICES_AT_ONCE,
                settings=settings,
                on_fault=on_fault,
            ),
            background(on_fault, _look_after_days(rows, settings)),
        ):
            metrics.add(LogMetrics(writer).read)
            metrics.add(ConsumerMetrics(app, settings.topic_responses).read)
            gc.set_threshold(*GC_THRESHOLDS)
            log.info("logging predictions", topic=settings.topic_responses)
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
    if settings.log_hash_key is None or settings.log_user_ids == "plain":
        return str
    return hashed_by(settings.log_hash_key.get_secret_value().encode())


async def _look_after_days(rows: PredictionLog, settings: Settings) -> None:
    """Make days before they begin, and drop those that are not kept any more."""
    while True:
        first, last = kept_days(_now(), settings.log_keep_days)
        try:
            made = await rows.make_days(_now().date(), last)
            dropped = await rows.drop_days(first)
            if made or dropped:
                log.info(
                    "days of the prediction log",
                    made=[day.isoformat() for day in made],
                    dropped=[day.isoformat() for day in dropped],
                )
        except (RegistryUnavailableError, SetupError) as error:
            log.warning("days of the prediction log not made or dropped", reason=str(error))
        await asyncio.sleep(LOOK_AFTER_DAYS_SECONDS)
