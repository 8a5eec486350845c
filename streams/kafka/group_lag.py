"""Reads from the broker how far a consumer group lags behind the end of a topic."""

from contextlib import AsyncExitStack
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from schemas.errors import BrokerUnavailableError
from streams.config.security import kafka_security
from streams.config.settings import Settings
from streams.kafka.offset_tracker import GroupOffsets
from streams.kafka.topics import administration


class GroupLag:
    """Keeps its connections open between readings, and connects again after a failure."""

    def __init__(self, settings: Settings, *, group_id: str, topic: str) -> None:
        self._settings = settings
        self._group_id = group_id
        self._topic = topic
        self._opened: AsyncExitStack | None = None
        self._admin: AIOKafkaAdminClient | None = None
        self._consumer: Any = None

    async def read(self) -> dict[int, GroupOffsets]:
        """The offsets by partition number; raises BrokerUnavailableError and SetupError."""
        try:
            if self._opened is None:
                await self._open()
            return await self._read()
        except BaseException as error:
            await self.close()
            if isinstance(error, KafkaError | TimeoutError | OSError):
                reason = str(error) or type(error).__name__
                raise BrokerUnavailableError(f"the group's offsets cannot be read: {reason}") from error
            raise

    async def close(self) -> None:
        """Close the connections. Idempotent."""
        opened, self._opened = self._opened, None
        if opened is not None:
            await opened.aclose()

    async def _open(self) -> None:
        self._opened = AsyncExitStack()
        self._admin = await self._opened.enter_async_context(administration(self._settings))
        self._consumer = AIOKafkaConsumer(
            bootstrap_servers=self._settings.kafka_bootstrap,
            isolation_level="read_committed",
            **kafka_security(self._settings),
        )
        self._opened.push_async_callback(self._consumer.stop)
        await self._consumer.start()

    async def _read(self) -> dict[int, GroupOffsets]:
        assert self._admin is not None
        (described,) = await self._admin.describe_topics([self._topic])
        partitions = [TopicPartition(self._topic, each["partition"]) for each in described["partitions"]]
        known = await self._admin.list_consumer_group_offsets(self._group_id)
        # A group without a committed offset reads a partition from its first record.
        begins = await self._consumer.beginning_offsets(partitions)
        ends = await self._consumer.end_offsets(partitions)
        return {
            partition.partition: GroupOffsets(
                committed=max(known[partition].offset if partition in known else 0, begins[partition]),
                end=ends[partition],
            )
            for partition in partitions
        }
