"""The clients' producer of single records: idempotent, acknowledged by all in-sync replicas."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeAlias

from aiokafka import AIOKafkaProducer

from streams.config.security import kafka_security
from streams.config.settings import Settings
from streams.kafka.errors import kafka_connection_errors
from streams.kafka.tail import CONNECT_SECONDS

Producer: TypeAlias = AIOKafkaProducer

# Kafka's limit includes the key and the headers.
_RECORD_OVERHEAD_BYTES = 16 * 1024
# The event loop holds only weak references to its tasks.
_STOPPING: set[asyncio.Task[None]] = set()


@asynccontextmanager
async def open_producer(settings: Settings, topic: str, *, close_seconds: float) -> AsyncIterator[Producer]:
    """A connected producer that has the metadata of `topic`.

    Closing waits at most `close_seconds` for undelivered records and then continues in the background: without a
    broker it would take as long as the request timeout. Raises BrokerUnavailableError within 10 s, SetupError when
    the topic does not exist.
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
        with kafka_connection_errors(settings.kafka_bootstrap, topic):
            async with asyncio.timeout(CONNECT_SECONDS):
                await producer.start()
                await producer.partitions_for(topic)
        yield producer
    finally:
        stopping = asyncio.create_task(producer.stop())
        _STOPPING.add(stopping)
        stopping.add_done_callback(_STOPPING.discard)
        await asyncio.wait([stopping], timeout=close_seconds)
