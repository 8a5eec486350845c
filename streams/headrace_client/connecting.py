"""Opens and closes the connections of clients: a producer of single records, and a consumer without a group."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import (
    KafkaConnectionError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
)

from .kafka_errors import KafkaErrors
from .stopping import stop_consumer

CONNECT_SECONDS = 10.0
_METADATA_SECONDS = 5.0
_METADATA_PAUSE_SECONDS = 0.05
# A fetch for other partitions of a broker that waits for records delays the first fetch of one more partition.
_FETCH_WAIT_MS = 50
# Kafka's limit includes the key and the headers.
_RECORD_OVERHEAD_BYTES = 16 * 1024
# The event loop holds only weak references to its tasks.
_STOPPING: set[asyncio.Task[None]] = set()

Reader = TypeVar("Reader")
Writer = TypeVar("Writer")


@dataclass(frozen=True, slots=True)
class LinkOptions:
    """The connection to Kafka. `security` has aiokafka's arguments for TLS and SASL.

    Closing waits at most `close_seconds` for undelivered requests, which then continue in the background.
    """

    bootstrap: str
    security: Mapping[str, Any]
    errors: KafkaErrors
    max_request_bytes: int
    close_seconds: float


@asynccontextmanager
async def open_producer(options: LinkOptions, *topics: str) -> AsyncIterator[AIOKafkaProducer]:
    """A connected producer that has the metadata of these topics.

    Raises `unavailable` within 10 s, `setup` when a topic does not exist.
    """
    producer = AIOKafkaProducer(
        bootstrap_servers=options.bootstrap,
        enable_idempotence=True,
        acks="all",
        max_request_size=options.max_request_bytes + _RECORD_OVERHEAD_BYTES,
        request_timeout_ms=int(CONNECT_SECONDS * 1000),
        **options.security,
    )
    errors, bootstrap = options.errors, options.bootstrap
    try:
        with errors.translated_at_start(bootstrap, topics[0]):
            async with asyncio.timeout(CONNECT_SECONDS):
                await producer.start()
                for topic in topics:
                    with errors.translated(bootstrap, topic):
                        await _wait_for_topic(producer, topic)
        yield producer
    finally:
        stopping = asyncio.create_task(producer.stop())
        _STOPPING.add(stopping)
        stopping.add_done_callback(_STOPPING.discard)
        # Without a broker it would take as long as the request timeout.
        await asyncio.wait([stopping], timeout=options.close_seconds)


@asynccontextmanager
async def both_open(
    reader: AbstractAsyncContextManager[Reader], writer: AbstractAsyncContextManager[Writer]
) -> AsyncIterator[tuple[Reader, Writer]]:
    """Open and close both concurrently, because operators wait for it."""
    reading, writing = AsyncExitStack(), AsyncExitStack()
    try:
        try:
            # A request is sent only when both are open: the reader must see its reply.
            async with asyncio.TaskGroup() as opening:
                read = opening.create_task(reading.enter_async_context(reader))
                written = opening.create_task(writing.enter_async_context(writer))
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        yield read.result(), written.result()
    finally:
        await asyncio.gather(reading.aclose(), writing.aclose())


@asynccontextmanager
async def open_consumer(options: LinkOptions, topic: str) -> AsyncIterator[AIOKafkaConsumer]:
    """A connected consumer without a topic or a group; raises `unavailable` within 10 s."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=options.bootstrap,
        group_id=None,
        enable_auto_commit=False,
        isolation_level="read_committed",
        auto_offset_reset="latest",
        fetch_max_wait_ms=_FETCH_WAIT_MS,
        request_timeout_ms=int(_METADATA_SECONDS * 1000),
        **options.security,
    )
    try:
        with options.errors.translated_at_start(options.bootstrap, topic):
            async with asyncio.timeout(CONNECT_SECONDS):
                await consumer.start()
        yield consumer
    finally:
        await stop_consumer(consumer)


async def _wait_for_topic(producer: AIOKafkaProducer, topic: str) -> None:
    """Wait for the metadata of a topic, which may have been created a moment ago."""
    client = producer.client
    deadline = time.monotonic() + _METADATA_SECONDS
    reached = await client.add_topic(topic)
    while client.cluster.partitions_for_topic(topic) is None:
        if not reached:
            raise KafkaConnectionError
        if topic in client.cluster.unauthorized_topics:
            raise TopicAuthorizationFailedError(topic)
        if time.monotonic() > deadline:
            raise UnknownTopicOrPartitionError(topic)
        await asyncio.sleep(_METADATA_PAUSE_SECONDS)
        reached = await client.force_metadata_update()
