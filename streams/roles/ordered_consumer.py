"""Reading one topic in its order, for the roles beside `predict`: what is decided or added up there is so in order.

Several workers may have such a role: each partition is one worker's at a time, and another one takes over
when it ends.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import structlog

from streams.config.identity import Identity
from streams.config.security import kafka_security
from streams.config.settings import Settings
from streams.kafka.faust_app import WorkerApp, consumer_of, progress_of, worker_app
from streams.kafka.slice_agent import SliceHandler, slice_agent
from streams.kafka.transport import TransportOptions
from streams.process.background import OnFault
from streams.process.watchdog import Progress, Watchdog

log = structlog.get_logger()

# Well within `shutdown_seconds`, in which another role of this process has to end too.
STOP_SECONDS = 3.0


def ordered_app(
    settings: Settings,
    identity: Identity,
    *,
    role: str,
    group_id: str,
    slice_max_records: int,
    at_once: int = 1,
    on_fault: OnFault,
) -> WorkerApp:
    """The app of such a role; its producer writes what comes of it. `at_once` is that of `reading`."""
    return worker_app(
        TransportOptions(
            bootstrap=settings.kafka_bootstrap,
            group_id=group_id,
            client_id=f"headrace-{identity.worker}-{role}",
            slice_max_records=slice_max_records,
            max_outstanding=at_once + 1,
            fetch_max_bytes=settings.fetch_max_bytes,
            security=kafka_security(settings),
        ),
        on_fault=on_fault,
    )


@asynccontextmanager
async def reading(
    app: WorkerApp,
    topic: str,
    handle: SliceHandler,
    *,
    attempts: Callable[[], int],
    at_once: int = 1,
    settings: Settings,
    on_fault: OnFault,
) -> AsyncIterator[None]:
    """Handle the topic's slices one after the other while the block runs.

    With more than one `at_once` they are handled in any order. At the block's end the slice in hand is
    finished, unless that takes too long: then it is left to the next worker with this role. `attempts` counts
    what was tried, for the watchdog: to wait for PostgreSQL is no standstill.
    """
    slice_agent(app, topic, handle, slices_in_flight=at_once, in_order=at_once == 1, on_fault=on_fault)

    def progress() -> Progress:
        now = progress_of(app)
        return replace(now, done=now.done + attempts())

    watchdog = Watchdog(progress, lambda: settings.watchdog_seconds)
    await app.start()
    watchdog.start()
    yield
    stopping = asyncio.create_task(app.stop())
    await asyncio.wait([stopping], timeout=STOP_SECONDS)
    if not stopping.done():
        log.warning("records are left waiting; they come again to the next worker", topic=topic)
        consumer_of(app).abandon_unacked()
    await stopping
    watchdog.stop()
