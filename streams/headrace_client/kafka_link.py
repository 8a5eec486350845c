"""One producer of requests and one reader of replies, which reads no more partitions than replies are awaited in.

A worker writes a reply to the partition that has the number of the request's, with the same key. So the client chooses
the partition of a request by its key, as every Kafka producer does, and reads that partition only. A partition that is
not read has no fetches: the end of it is looked up when it is needed again.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import (
    ConsumerStoppedError,
    CorruptRecordException,
    KafkaError,
    RecordTooLargeError,
    UnsupportedCodecError,
)
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.structs import TopicPartition

from .connecting import LinkOptions, both_open, open_consumer, open_producer

log = logging.getLogger(__name__)

# Long enough that steady traffic of a user looks up no offsets.
READ_ON_SECONDS = 30.0
_WAIT_MS = 1000

_choose_partition = DefaultPartitioner()


class Record(Protocol):
    """A record of the reply topic."""

    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...


Fetch = Callable[[], Awaitable[Iterable[Record]]]


@dataclass(frozen=True, slots=True)
class Place:
    """The partition of a request, and those in which its reply may come."""

    partition: int
    replies: tuple[int, ...]


class Link(Protocol):
    """An open connection for one kind of request."""

    async def place(self, key: bytes) -> Place:
        """Where a request with this key goes."""

    async def begin(self, place: Place) -> None:
        """Read the partitions of a place until `end`; each record that is written after this returns is read."""

    def end(self, place: Place) -> None:
        """One reply fewer is awaited there."""

    async def send(self, place: Place, key: bytes, value: bytes) -> asyncio.Future[Any]:
        """The future of the delivery; raises aiokafka's errors."""

    async def next_replies(self) -> Iterable[Record]:
        """The available records, or those of the next second; raises aiokafka's errors."""


class KafkaLink:
    """An open connection; `reading` counts the requests that wait for a reply in each partition."""

    def __init__(
        self, producer: AIOKafkaProducer, consumer: AIOKafkaConsumer, topics: tuple[str, str], fetch: Fetch
    ) -> None:
        self._producer = producer
        self._consumer = consumer
        self._request_topic, self._reply_topic = topics
        self._fetch = fetch
        self._assigned: set[int] = set()
        self._awaited: Counter[int] = Counter()
        self._last_used: dict[int, float] = {}
        self._opening = asyncio.Lock()

    @property
    def partitions(self) -> Collection[int]:
        """The partitions of the reply topic that are read now."""
        return self._last_used.keys()

    async def place(self, key: bytes) -> Place:
        """Where a request with this key goes. A topic that has grown is used when its answers can be read."""
        requests = sorted(await self._producer.partitions_for(self._request_topic))
        replies = sorted(await self._producer.partitions_for(self._reply_topic))
        if len(requests) == len(replies):
            partition: int = _choose_partition(key, requests, requests)
            return Place(partition, (partition,))
        # One of the topics has grown, or the topics do not promise the same number: by number, or by key.
        partition = _choose_partition(key, requests[: len(replies)], None)
        return Place(partition, tuple({partition, _choose_partition(key, replies, None)}))

    async def begin(self, place: Place) -> None:
        """Read the partitions of a place until `end`; each record that is written after this returns is read."""
        for partition in place.replies:
            self._awaited[partition] += 1
        for partition in place.replies:
            if partition not in self._last_used:
                async with self._opening:
                    await self._open(partition)

    def end(self, place: Place) -> None:
        """One reply fewer is awaited there."""
        for partition in place.replies:
            self._awaited[partition] -= 1
            if partition in self._last_used:
                self._last_used[partition] = time.monotonic()

    async def send(self, place: Place, key: bytes, value: bytes) -> asyncio.Future[Any]:
        """The future of the delivery; raises aiokafka's errors."""
        delivery: asyncio.Future[Any] = await self._producer.send(
            self._request_topic, value, key=key, partition=place.partition
        )
        return delivery

    async def next_replies(self) -> Iterable[Record]:
        """The available records of the partitions that are read, or those of the next second; aiokafka's errors."""
        self._stop_reading_idle()
        return await self._fetch()

    async def _open(self, partition: int) -> None:
        if partition in self._last_used:
            return
        if partition not in self._assigned:
            await self._assign()
        if not await self._consumer.seek_to_end(self._reply(partition)):
            raise TimeoutError
        self._consumer.resume(self._reply(partition))
        self._last_used[partition] = time.monotonic()

    async def _assign(self) -> None:
        """Know all partitions of the topic, each paused unless it is read."""
        positions = {each: await self._consumer.position(self._reply(each)) for each in [*self._last_used]}
        self._assigned = set(await self._producer.partitions_for(self._reply_topic))
        self._consumer.assign(list(map(self._reply, self._assigned)))
        self._consumer.pause(*(self._reply(each) for each in self._assigned if each not in positions))
        for partition, position in positions.items():
            self._consumer.seek(self._reply(partition), position)

    def _stop_reading_idle(self) -> None:
        now = time.monotonic()
        idle = [
            partition
            for partition, used in self._last_used.items()
            if not self._awaited[partition] and now - used > READ_ON_SECONDS
        ]
        for partition in idle:
            self._consumer.pause(self._reply(partition))
            del self._last_used[partition]

    def _reply(self, partition: int) -> TopicPartition:
        return TopicPartition(self._reply_topic, partition)


@asynccontextmanager
async def open_link(options: LinkOptions, request_topic: str, reply_topic: str) -> AsyncIterator[KafkaLink]:
    """Connect for one kind of request.

    Raises `unavailable` within 10 s, `setup` when a topic does not exist.
    """
    reader = open_consumer(options, reply_topic)
    async with both_open(reader, open_producer(options, request_topic, reply_topic)) as (consumer, producer):
        yield KafkaLink(producer, consumer, (request_topic, reply_topic), plain_fetch(consumer))


def plain_fetch(consumer: AIOKafkaConsumer) -> Fetch:
    """Fetches as aiokafka does. What it cannot read is passed over with a log line."""

    async def fetch() -> Iterable[Record]:
        try:
            batches = await consumer.getmany(timeout_ms=_WAIT_MS)
        except ConsumerStoppedError:
            raise
        except (KafkaError, ValueError) as error:
            if isinstance(error, KafkaError) and not _is_of_records(error):
                raise
            log.warning("replies cannot be read (%r); what is there now is passed over", error)
            await consumer.seek_to_end(*(consumer.assignment() - consumer.paused()))
            return ()
        return [record for records in batches.values() for record in records]

    return fetch


def _is_of_records(error: KafkaError) -> bool:
    return isinstance(error, CorruptRecordException | UnsupportedCodecError | RecordTooLargeError)
