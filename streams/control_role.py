"""The role `control`: promotion events in, results out.

Several workers may have it: one of them reads the topic, and another one takes over when it ends.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import structlog

from registry.broadcast import HintSender
from registry.store import RegistryStore
from schemas.models import PromotionResult
from streams.agents.slices import slice_agent
from streams.app import WorkerApp, consumer_of, output_of, progress_of, worker_app
from streams.background import OnFault
from streams.control import Control
from streams.identity import Identity
from streams.ledger import Record
from streams.promotion_events import MAX_ECHO_CHARACTERS
from streams.security import kafka_security, redis_options
from streams.settings import Settings
from streams.topics import partition_counts
from streams.transport import TransportOptions
from streams.watchdog import Progress, Watchdog

log = structlog.get_logger()

EVENTS_A_SLICE = 100
# Well within `shutdown_seconds`, in which another role of this process has to end too.
STOP_SECONDS = 3.0


@asynccontextmanager
async def control_role(settings: Settings, identity: Identity, on_fault: OnFault) -> AsyncIterator[None]:
    """Decide promotions while the block runs."""
    await partition_counts(settings, [settings.topic_promotions, settings.topic_promotion_results])
    app = worker_app(
        TransportOptions(
            bootstrap=settings.kafka_bootstrap,
            group_id=settings.control_group_id,
            client_id=f"headrace-{identity.worker}-control",
            slice_max_records=EVENTS_A_SLICE,
            max_outstanding=2,
            fetch_max_bytes=settings.fetch_max_bytes,
            security=kafka_security(settings),
        ),
        on_fault=on_fault,
    )

    async def send_result(result: PromotionResult, record: Record, source: str) -> None:
        await output_of(app).kafka.send_and_wait(
            settings.topic_promotion_results,
            value=result.model_dump_json().encode(),
            key=_key(result, record),
            headers=[("headrace-source", source.encode()), ("content-type", b"application/json")],
        )

    async with AsyncExitStack() as opened:
        store = await RegistryStore.connect(settings.postgres_dsn.get_secret_value())
        opened.push_async_callback(store.close)
        hints = HintSender(
            settings.redis_url.get_secret_value(),
            timeout_seconds=settings.redis_timeout_seconds,
            connection_options=redis_options(settings),
        )
        opened.push_async_callback(hints.close)
        control = Control(store, hints, send_result, max_event_bytes=settings.max_record_bytes)
        slice_agent(
            app,
            settings.topic_promotions,
            control.process,
            slices_in_flight=1,
            in_order=True,
            on_fault=on_fault,
        )

        def progress() -> Progress:
            # To wait for PostgreSQL is no standstill: each attempt counts.
            now = progress_of(app)
            return replace(now, done=now.done + control.attempts)

        watchdog = Watchdog(progress, lambda: settings.watchdog_seconds)
        await app.start()
        watchdog.start()
        log.info("deciding promotions", topic=settings.topic_promotions)
        yield
        await _stop(app)
        watchdog.stop()


def _key(result: PromotionResult, record: Record) -> bytes | None:
    """The model's name; the record's key where no name can be read, unless it is too long to be one."""
    if result.model_name:
        return result.model_name.encode()
    return record.key if record.key is not None and len(record.key) <= MAX_ECHO_CHARACTERS else None


async def _stop(app: WorkerApp) -> None:
    """Finish the event in hand; what waits for PostgreSQL is left to the next control worker."""
    stopping = asyncio.create_task(app.stop())
    await asyncio.wait([stopping], timeout=STOP_SECONDS)
    if not stopping.done():
        log.warning("promotions are left waiting; they come again to the next control worker")
        consumer_of(app).give_up()
    await stopping
