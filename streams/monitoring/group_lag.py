"""Reads the offsets of the predict workers' consumer group from the broker."""

from contextlib import AsyncExitStack
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from schemas.errors import BrokerUnavailableError
from streams.config.security import kafka_security
from streams.config.settings import Settings
from streams.kafka.topics import administration
from streams.monitoring.rules.global_rules import Offsets


class GroupLag:
    """Keeps its connections open between readings; closes them when a reading fails."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._opened: AsyncExitStack | None = None
        self._admin: AIOKafkaAdminClient | None = None
        self._consumer: Any = None

    async def read(self) -> dict[int, Offsets]:
        """The offsets of each partition of the requests; raises BrokerUnavailableError and SetupError."""
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
        """Close the connections."""
        opened, self._opened = self._opened, None
        if opened is not None:
            await opened.aclose()

    async def _open(self) -> None:
        self._opened = AsyncExitStack()
        self._admin = await self._opened.enter_async_context(administration(self._settings))
        self._consumer = AIOKafkaConsumer(
            bootstrap_servers=self._settings.kafka_bootstrap, **kafka_security(self._settings)
        )
        self._opened.push_async_callback(self._consumer.stop)
        await self._consumer.start()

    async def _read(self) -> dict[int, Offsets]:
        topic = self._settings.topic_requests
        assert self._admin is not None
        (described,) = await self._admin.describe_topics([topic])
        partitions = [TopicPartition(topic, each["partition"]) for each in described["partitions"]]
        known = await self._admin.list_consumer_group_offsets(self._settings.group_id)
        # A partition without a committed offset is read from its beginning.
        begins = await self._consumer.beginning_offsets(partitions)
        ends = await self._consumer.end_offsets(partitions)
        return {
            partition.partition: Offsets(
                committed=max(known[partition].offset if partition in known else 0, begins[partition]),
                end=ends[partition],
            )
            for partition in partitions
        }
