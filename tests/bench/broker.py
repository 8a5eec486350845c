"""The harness's own hands on Kafka: topics, filling them, counting and reading what came out."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from .workload import PARTITIONS, Message

_BATCH_BYTES = 512 * 1024
_READ_BYTES = 4 * 1024 * 1024
_READ_SECONDS = 60.0
_CREATE_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Output:
    """A record that a competitor wrote; `appended_ms` is when the broker took it, by its clock."""

    partition: int
    key: bytes | None
    value: bytes
    headers: tuple[tuple[str, bytes], ...]
    appended_ms: int


class Broker(AbstractAsyncContextManager["Broker"]):
    """Enter it to connect; `bootstrap` is host:port."""

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap
        self._admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
        # One for each topic: a client goes on asking after the topics it was once asked about.
        self._readers: dict[str, AIOKafkaConsumer] = {}

    async def __aenter__(self) -> Self:
        await self._admin.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for reader in self._readers.values():
            await reader.stop()
        await self._admin.close()

    async def create(self, *topics: str) -> None:
        """Make topics whose records carry the broker's time, which no client can set."""
        config = {"message.timestamp.type": "LogAppendTime"}
        await self._admin.create_topics(
            [NewTopic(topic, PARTITIONS, 1, topic_configs=config) for topic in topics]
        )
        await self._wait_for_leaders(topics)
        for topic in topics:
            reader = AIOKafkaConsumer(
                bootstrap_servers=self.bootstrap,
                enable_auto_commit=False,
                max_partition_fetch_bytes=_READ_BYTES,
            )
            await reader.start()
            reader.assign([TopicPartition(topic, number) for number in range(PARTITIONS)])
            self._readers[topic] = reader

    async def delete(self, topic: str) -> None:
        await self._readers.pop(topic).stop()
        await self._admin.delete_topics([topic])

    async def fill(
        self, topic: str, messages: Iterable[Message], headers: Sequence[tuple[str, bytes]] = ()
    ) -> int:
        """Write messages as fast as it goes; returns how many."""
        producer = AIOKafkaProducer(
            bootstrap_servers=self.bootstrap, max_batch_size=_BATCH_BYTES, max_request_size=8 * _BATCH_BYTES
        )
        await producer.start()
        count = 0
        try:
            now_ms = int(time.time() * 1000)
            carried = list(headers)
            batches = {partition: producer.create_batch() for partition in range(PARTITIONS)}
            for message in messages:
                key, value = message.key, message.value
                partition = message.partition
                if batches[partition].append(key=key, value=value, timestamp=now_ms, headers=carried) is None:
                    await producer.send_batch(batches[partition], topic, partition=partition)
                    batches[partition] = producer.create_batch()
                    batches[partition].append(key=key, value=value, timestamp=now_ms, headers=carried)
                count += 1
            for partition, batch in batches.items():
                await producer.send_batch(batch, topic, partition=partition)
            await producer.flush()
        finally:
            await producer.stop()
        return count

    async def count(self, topic: str) -> int:
        """How many records the topic was given so far."""
        reader = self._readers[topic]
        return sum((await reader.end_offsets(reader.assignment())).values())

    async def read(self, topic: str, count: int) -> AsyncIterator[Output]:
        """The first `count` records of a topic; raises TimeoutError when they do not come."""
        reader = self._readers[topic]
        await reader.seek_to_beginning()
        while count > 0:
            fetched = await asyncio.wait_for(reader.getmany(timeout_ms=1000), _READ_SECONDS)
            for records in fetched.values():
                for record in records:
                    yield output_of(record)
                count -= len(records)

    async def _wait_for_leaders(self, topics: Sequence[str]) -> None:
        """The broker learns of its new topics a moment after it has answered."""
        async with asyncio.timeout(_CREATE_SECONDS):
            while True:
                described = await self._admin.describe_topics(list(topics))
                if not any(topic["error_code"] for topic in described):
                    return
                await asyncio.sleep(0.02)


def output_of(record: Any) -> Output:
    """Of aiokafka's ConsumerRecord."""
    return Output(record.partition, record.key, record.value, tuple(record.headers), record.timestamp)
