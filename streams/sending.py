"""A producer of single records, as clients have it: idempotent, and acknowledged by all in-sync replicas."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from aiokafka import AIOKafkaProducer

from streams.kafka_errors import kafka_connection_errors
from streams.security import kafka_security
from streams.settings import Settings
from streams.tail import CONNECT_SECONDS

# Kafka counts the key and the headers too.
_RECORD_OVERHEAD_BYTES = 16 * 1024


@asynccontextmanager
async def open_producer(
    settings: Settings, topic: str, *, close_seconds: float
) -> AsyncIterator[AIOKafkaProducer]:
    """A producer that is connected and knows `topic`.

    At the end it waits at most `close_seconds` for what is not delivered yet. Raises
    BrokerUnavailableError within 10 s, SetupError when there is no such topic.
    """
    producer = AIOKafkaProducer(
        bootstrap_servers=settings.kafka_bootstrap,
        enable_idempotence=True,
        acks="all",
        max_request_size=settings.max_record_bytes + _RECORD_OVERHEAD_BYTES,
        request_timeout_ms=int(CONNECT_SECONDS * 1000),
        **kafka_security(settings),
    )
    try:
        with kafka_connection_errors(settings, topic):
            async with asyncio.timeout(CONNECT_SECONDS):
                await producer.start()
                await producer.partitions_for(topic)
        yield producer
    finally:
        # A broker that is gone would hold up the flush for as long as the request timeout.
        with suppress(TimeoutError):
            async with asyncio.timeout(close_seconds):
                await producer.stop()
