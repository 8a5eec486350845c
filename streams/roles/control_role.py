"""The role `control`: promotion events in, results out.

Several workers may have it: one of them reads the topic, and another one takes over when it ends.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import structlog

from registry.broadcast import HintSender
from registry.store import RegistryStore
from schemas.models import PromotionResult
from streams.config.identity import Identity
from streams.config.security import redis_options
from streams.config.settings import Settings
from streams.kafka.faust_app import has_joined, output_of
from streams.kafka.offset_tracker import Record
from streams.kafka.topics import partition_counts
from streams.process.background import OnFault
from streams.process.http import Web
from streams.prometheus.consumer_families import ConsumerMetrics
from streams.prometheus.control_families import ControlMetrics
from streams.prometheus.page import MetricsPage
from streams.promotions.control import Control
from streams.promotions.events import MAX_ECHO_CHARACTERS
from streams.roles.ordered_consumer import ordered_app, reading

log = structlog.get_logger()

EVENTS_A_SLICE = 100


@asynccontextmanager
async def control_role(
    settings: Settings, identity: Identity, on_fault: OnFault, web: Web, metrics: MetricsPage
) -> AsyncIterator[None]:
    """Decide promotions while the block runs."""
    await partition_counts(settings, [settings.topic_promotions, settings.topic_promotion_results])
    app = ordered_app(
        settings,
        identity,
        role="control",
        group_id=settings.control_group_id,
        slice_max_records=EVENTS_A_SLICE,
        on_fault=on_fault,
    )
    web.ready_when("control: partitions are known", lambda: has_joined(app))

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
        async with reading(
            app,
            settings.topic_promotions,
            control.process,
            attempts=lambda: control.attempts,
            settings=settings,
            on_fault=on_fault,
        ):
            metrics.add(ControlMetrics(control).read)
            metrics.add(ConsumerMetrics(app, settings.topic_promotions).read)
            log.info("deciding promotions", topic=settings.topic_promotions)
            yield


def _key(result: PromotionResult, record: Record) -> bytes | None:
    """The model's name; the record's key where no name can be read, unless it is too long to be one."""
    if result.model_name:
        return result.model_name.encode()
    return record.key if record.key is not None and len(record.key) <= MAX_ECHO_CHARACTERS else None
