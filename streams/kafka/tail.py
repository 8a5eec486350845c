"""Reads the new records of a topic, for clients and live views: all partitions, without a group or commits."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiokafka import AIOKafkaConsumer, ConsumerRecord

from streams.config.security import kafka_security
from streams.config.settings import Settings
from streams.kafka.errors import kafka_connection_errors, kafka_errors
from streams.kafka.stopping import stop_consumer

CONNECT_SECONDS = 10.0
_METADATA_SECONDS = 5.0
_WAIT_MS = 1000


class Tail:
    """The records that are written to one topic after it was opened."""

    def __init__(self, settings: Settings, topic: str, consumer: AIOKafkaConsumer) -> None:
        self._settings = settings
        self._topic = topic
        self._consumer = consumer

    async def next_records(self, wait_ms: int = _WAIT_MS) -> list[ConsumerRecord]:
        """The available records, or the first ones that arrive within `wait_ms`; in order within each partition.

        Raises the errors of `kafka_errors`.
        """
        with kafka_errors(self._settings.kafka_bootstrap, self._topic):
            batches = await self._consumer.getmany(timeout_ms=wait_ms)
        return [record for records in batches.values() for record in records]


@asynccontextmanager
async def open_tail(settings: Settings, topic: str) -> AsyncIterator[Tail]:
    """Open `topic` at its end: every record that is written after this returns will be read.

    Raises BrokerUnavailableError within 10 s, SetupError when the topic does not exist.
    """
    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=settings.kafka_bootstrap,
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="latest",
        request_timeout_ms=int(_METADATA_SECONDS * 1000),
        **kafka_security(settings),
    )
    try:
        with kafka_connection_errors(settings.kafka_bootstrap, topic):
            async with asyncio.timeout(CONNECT_SECONDS):
                await consumer.start()
                if not await consumer.seek_to_end():
                    raise TimeoutError
        yield Tail(settings, topic, consumer)
    finally:
        await stop_consumer(consumer)
