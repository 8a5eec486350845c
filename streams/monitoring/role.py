"""The role `monitor`: metrics deltas in, windows in PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from registry.metric_windows import MetricWindows
from registry.postgres import Database
from schemas.errors import RegistryUnavailableError, SetupError
from streams.background import OnFault, background
from streams.identity import Identity
from streams.monitoring.monitor import Monitor
from streams.ordered_reading import ordered_app, reading
from streams.settings import Settings
from streams.topics import partition_counts

log = structlog.get_logger()

DELTAS_A_SLICE = 1000
FORGET_EACH_SECONDS = 600.0


@asynccontextmanager
async def monitor_role(settings: Settings, identity: Identity, on_fault: OnFault) -> AsyncIterator[None]:
    """Add up what the workers count while the block runs."""
    await partition_counts(settings, [settings.topic_metrics])
    app = ordered_app(
        settings,
        identity,
        role="monitor",
        group_id=settings.monitor_group_id,
        slice_max_records=DELTAS_A_SLICE,
        on_fault=on_fault,
    )
    database = await Database.connect(settings.postgres_dsn.get_secret_value())
    try:
        windows = MetricWindows(database)
        monitor = Monitor(windows)
        async with (
            reading(
                app,
                settings.topic_metrics,
                monitor.process,
                attempts=lambda: monitor.attempts,
                settings=settings,
                on_fault=on_fault,
            ),
            background(on_fault, _forget(windows, settings)),
        ):
            log.info("adding up metrics", topic=settings.topic_metrics)
            yield
    finally:
        await database.close()


async def _forget(windows: MetricWindows, settings: Settings) -> None:
    """Delete what is older than it is kept, now and then."""
    keep_seconds = {
        10: settings.metrics_keep_10s_hours * 3600.0,
        60: settings.metrics_keep_1m_days * 86_400.0,
        3600: settings.metrics_keep_1h_days * 86_400.0,
    }
    while True:
        try:
            await windows.forget(keep_seconds)
        except (RegistryUnavailableError, SetupError) as error:
            log.warning("old metrics not deleted", reason=str(error))
        await asyncio.sleep(FORGET_EACH_SECONDS)
