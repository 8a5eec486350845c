"""The clients' connections: a producer of single records, and links for requests with replies."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeAlias

from aiokafka import AIOKafkaProducer

from streams.config.security import kafka_security
from streams.config.settings import Settings
from streams.headrace_client import connecting
from streams.headrace_client.connecting import LinkOptions, both_open
from streams.headrace_client.kafka_link import Place
from streams.kafka.errors import ERRORS
from streams.kafka.offset_tracker import Record
from streams.kafka.tail import Tail, open_tail

Producer: TypeAlias = AIOKafkaProducer

# The tail reads all partitions, so replies may come in any.
_ANYWHERE = Place(-1, ())


class TailLink:
    """Sends requests, and reads every reply of the topic, within the limits of the batch reader.

    The tail reads on in a topic that is created again, which needs aiokafka's own assignment of all partitions.
    """

    def __init__(self, tail: Tail, producer: Producer, request_topic: str) -> None:
        self._tail = tail
        self._producer = producer
        self._request_topic = request_topic

    async def place(self, _key: bytes) -> Place:
        return _ANYWHERE

    async def begin(self, _place: Place) -> None:
        """Everything is read already."""

    def end(self, _place: Place) -> None:
        """Everything is read on."""

    async def send(self, _place: Place, key: bytes, value: bytes) -> asyncio.Future[Any]:
        """The future of the delivery; raises aiokafka's errors."""
        delivery: asyncio.Future[Any] = await self._producer.send(self._request_topic, value, key=key)
        return delivery

    async def next_replies(self) -> Iterable[Record]:
        """The available records, or those of the next second; raises the errors of `kafka_errors`."""
        return await self._tail.next_records()


def open_producer(
    settings: Settings, topic: str, *, close_seconds: float
) -> AbstractAsyncContextManager[Producer]:
    """A connected producer that has the metadata of `topic`.

    Closing waits at most `close_seconds` for undelivered records and then continues in the background. Raises
    BrokerUnavailableError within 10 s, SetupError when the topic does not exist.
    """
    options = LinkOptions(
        bootstrap=settings.kafka_bootstrap,
        security=kafka_security(settings),
        errors=ERRORS,
        max_request_bytes=settings.max_record_bytes,
        close_seconds=close_seconds,
    )
    return connecting.open_producer(options, topic)


@asynccontextmanager
async def open_link(
    settings: Settings, request_topic: str, reply_topic: str, *, close_seconds: float
) -> AsyncIterator[TailLink]:
    """A connection for one kind of request; raises as `open_producer` does."""
    tail = open_tail(settings, reply_topic)
    producer = open_producer(settings, request_topic, close_seconds=close_seconds)
    async with both_open(tail, producer) as (reader, writer):
        yield TailLink(reader, writer, request_topic)
