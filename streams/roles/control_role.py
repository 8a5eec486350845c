"""The role `control`: reads promotion events, decides them and writes their results.

One worker with this role reads the topic; another one takes over when it ends.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import structlog

from registry.broadcast import HintSender
from registry.installation import read_installation
from registry.store import RegistryStore
from schemas.bounds import MAX_ID_CHARACTERS
from schemas.models import PromotionResult
from streams.config.security import redis_options
from streams.kafka.offset_tracker import Record
from streams.kafka.record_source import Headers
from streams.kafka.topics import partition_counts
from streams.prometheus.control_families import ControlMetrics
from streams.promotions.control import Control
from streams.roles.role_consumer import RoleConsumer, RoleContext

log = structlog.get_logger()

SLICE_MAX_EVENTS = 100


@asynccontextmanager
async def control_role(context: RoleContext) -> AsyncIterator[None]:
    """Decide promotions while the block runs."""
    settings = context.settings
    await partition_counts(settings, [settings.topic_promotions, settings.topic_promotion_results])
    consumer = RoleConsumer(
        context,
        "control",
        settings.topic_promotions,
        group_id=settings.control_group_id,
        slice_max_records=SLICE_MAX_EVENTS,
        in_order=True,
    )

    async def send_result(result: PromotionResult, record: Record, source: Headers) -> None:
        await consumer.send(
            settings.topic_promotion_results,
            result.model_dump_json().encode(),
            key=_key(result, record),
            headers=source,
        )

    async with AsyncExitStack() as opened:
        store = await RegistryStore.connect(settings.postgres_dsn.get_secret_value())
        opened.push_async_callback(store.close)
        installation = await read_installation(store.database)
        hints = HintSender(channel=installation.hint_channel, **redis_options(settings))
        opened.push_async_callback(hints.close)
        control = Control(store, hints, send_result, max_event_bytes=settings.max_record_bytes)
        async with consumer.reading(control.process, attempts=lambda: control.attempts):
            context.metrics.add(ControlMetrics(control).read)
            log.info("control role started", topic=settings.topic_promotions)
            yield


def _key(result: PromotionResult, record: Record) -> bytes | None:
    """The model's name. Without a readable name, the record's key, if it has at most `MAX_ECHO_CHARACTERS` bytes."""
    if result.model_name:
        return result.model_name.encode()
    return record.key if record.key is not None and len(record.key) <= MAX_ID_CHARACTERS else None
