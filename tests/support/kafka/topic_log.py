"""All records of topics from the beginning, as they arrive, and how many of them a group has not committed."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from streams.config.settings import Settings
from streams.headrace_client.stopping import stop_consumer
from tests.support.deadline import Signal

_WAIT_MS = 1000


class TopicLog:
    """Reads in the background; `of` has what was read so far."""

    def __init__(self, consumer: AIOKafkaConsumer) -> None:
        self._consumer = consumer
        self._records: dict[str, list[ConsumerRecord]] = defaultdict(list)
        self._next_offsets: dict[TopicPartition, int] = defaultdict(int)
        self._news = Signal()
        self._reading = asyncio.create_task(self._read())

    def of(self, topic: str) -> list[ConsumerRecord]:
        """The records of a topic, those of one partition in their order."""
        return self._records[topic]

    async def until(self, done: Callable[[], object], what: str) -> None:
        """Wait until `done` is true of what was read; `what` names what did not come."""

        def holds() -> object:
            if self._reading.done():
                self._reading.result()
            return done()

        await self._news.until(holds, what)

    async def to_end(self) -> None:
        """Wait until everything is read that was written before this call."""
        ends = await self._consumer.end_offsets(self._consumer.assignment())
        await self.until(
            lambda: all(self._next_offsets[partition] >= end for partition, end in ends.items()),
            f"the ends {ends}",
        )

    async def close(self) -> None:
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)

    async def _read(self) -> None:
        try:
            while True:
                fetched = await self._consumer.getmany(timeout_ms=_WAIT_MS)
                for partition, records in fetched.items():
                    self._records[partition.topic] += records
                    self._next_offsets[partition] = records[-1].offset + 1
                self._news.notify()
        finally:
            self._news.notify()


@asynccontextmanager
async def topic_log(bootstrap: str, *topics: str) -> AsyncIterator[TopicLog]:
    """Read these topics until the block ends."""
    consumer: Any = AIOKafkaConsumer(
        *topics,
        bootstrap_servers=bootstrap,
        group_id=None,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    await consumer.start()
    log = TopicLog(consumer)
    try:
        yield log
    finally:
        await log.close()
        await stop_consumer(consumer)


async def uncommitted_requests(settings: Settings, partitions: int) -> int:
    """How many requests there are beyond the offsets that the workers' group has committed."""
    return await _uncommitted(
        settings.kafka_bootstrap, settings.group_id, settings.topic_requests, partitions
    )


async def committed_requests(settings: Settings, partitions: int) -> list[int]:
    """The offset that the workers' group has committed on each partition; 0 where it has committed none."""
    consumer: Any = AIOKafkaConsumer(
        bootstrap_servers=settings.kafka_bootstrap, group_id=settings.group_id, enable_auto_commit=False
    )
    await consumer.start()
    try:
        topic = settings.topic_requests
        return [await consumer.committed(TopicPartition(topic, number)) or 0 for number in range(partitions)]
    finally:
        await stop_consumer(consumer)


async def uncommitted_promotions(settings: Settings) -> int:
    """How many promotion events there are beyond the offset that the control workers have committed."""
    group_id = settings.control_group_id
    return await _uncommitted(settings.kafka_bootstrap, group_id, settings.topic_promotions, 1)


async def uncommitted_metrics(settings: Settings, partitions: int) -> int:
    """How many deltas there are beyond the offsets that the monitors have committed."""
    group_id = settings.monitor_group_id
    return await _uncommitted(settings.kafka_bootstrap, group_id, settings.topic_metrics, partitions)


async def unlogged_responses(settings: Settings, partitions: int) -> int:
    """How many responses there are beyond the offsets that the log workers have committed."""
    group_id = settings.log_group_id
    return await _uncommitted(settings.kafka_bootstrap, group_id, settings.topic_responses, partitions)


async def _uncommitted(bootstrap: str, group_id: str, topic: str, partitions: int) -> int:
    consumer: Any = AIOKafkaConsumer(bootstrap_servers=bootstrap, group_id=group_id, enable_auto_commit=False)
    await consumer.start()
    try:
        consumer.assign([TopicPartition(topic, number) for number in range(partitions)])
        ends = await consumer.end_offsets(consumer.assignment())
        return sum([end - (await consumer.committed(partition) or 0) for partition, end in ends.items()])
    finally:
        await stop_consumer(consumer)
