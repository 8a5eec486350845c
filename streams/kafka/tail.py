# ruff: noqa: SLF001  # it fetches through the batch reader, as the transport does
"""Reads the new records of a topic, for clients and live views: all partitions, without a group or commits.

A topic that is deleted and created again is read from its beginning, and so are partitions that are added to it.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import ConsumerStoppedError, KafkaTimeoutError
from aiokafka.structs import TopicPartition

from streams.config.security import kafka_security
from streams.config.settings import Settings
from streams.headrace_client.stopping import stop_consumer
from streams.kafka.batch_parsing import UnreadableBatch
from streams.kafka.batch_reader import BatchReader
from streams.kafka.errors import kafka_connection_errors, kafka_errors
from streams.kafka.offset_tracker import Record
from streams.kafka.topic_identity import RETRY_SECONDS, TopicIdentity

# Not structlog, whose import costs each command of an operator time.
log = logging.getLogger(__name__)

CONNECT_SECONDS = 10.0
_METADATA_SECONDS = 5.0
_WAIT_MS = 1000


class Tail:
    """The records that are written to one topic after it was opened."""

    def __init__(self, settings: Settings, topic: str, consumer: AIOKafkaConsumer) -> None:
        self._settings = settings
        self._topic = topic
        self._consumer = consumer
        self._reader = BatchReader(settings.batch_max_bytes, settings.fetch_max_bytes)
        self._identity = TopicIdentity(
            consumer._client, on_recreated=lambda: None, on_out_of_range=lambda *_: None
        )
        self._assignment: Any = None
        self._next_offsets: dict[TopicPartition, int] = {}
        """Where to read on after aiokafka made a new assignment, which has no positions; elsewhere at the beginning."""

    async def start_at_end(self) -> None:
        """Go to the end of each partition. Raises KafkaError, and TimeoutError when a partition has no leader."""
        await self._identity.learn({self._topic}, {})
        # Not `seek_to_end`: the answer to a request for the first offset, which aiokafka may have sent already, would
        # pass for the answer to it.
        try:
            self._next_offsets = await self._consumer.end_offsets(self._assigned().tps)
        except KafkaTimeoutError:
            raise TimeoutError from None
        self._follow_assignment()

    async def next_records(self, wait_ms: int = _WAIT_MS) -> list[Record]:
        """The available records, or the first ones that arrive within `wait_ms`; in order within each partition.

        A batch that cannot be read is logged and skipped. Raises the errors of `kafka_errors`.
        """
        with kafka_errors(self._settings.kafka_bootstrap, self._topic):
            batches = await self._fetch(wait_ms / 1000)
        self._next_offsets.update(
            (partition, records[-1].offset + 1) for partition, records in batches.items()
        )
        return [
            record
            for partition, records in batches.items()
            for record in records
            if not _is_unreadable(record, partition)
        ]

    async def _fetch(self, wait_seconds: float) -> Mapping[TopicPartition, list[Record]]:
        """Like aiokafka's `getmany`, but with the limits of the batch reader."""
        consumer = self._consumer
        fetcher = consumer._fetcher
        if consumer._closed:
            raise ConsumerStoppedError
        deadline = time.monotonic() + wait_seconds
        with consumer._subscription.fetch_context():
            while True:
                self._follow_assignment()
                records = await self._reader.fetched_records(fetcher, (), None)
                remaining = deadline - time.monotonic()
                if records or remaining <= 0:
                    return records
                if self._identity.is_recreated(self._topic):
                    await self._begin_anew()
                elif consumer.assignment():
                    await self._reader.wait(fetcher, remaining)
                else:
                    # The topic is gone. aiokafka itself would look for it after five minutes.
                    await asyncio.sleep(RETRY_SECONDS)
                    await consumer._client.force_metadata_update()

    def _follow_assignment(self) -> None:
        """Read on where it was in a new assignment; aiokafka begins partitions that were not there at their beginning."""
        assignment = self._assigned()
        if assignment is self._assignment:
            return
        for partition in assignment.tps & self._next_offsets.keys():
            self._consumer.seek(partition, self._next_offsets[partition])
        self._assignment = assignment

    async def _begin_anew(self) -> None:
        """Read another topic of the name from its beginning."""
        for _ in await self._identity.learn({self._topic}, {}):
            log.warning("%s was created again; it is read from its beginning", self._topic)
        await self._consumer._client.force_metadata_update()
        # Where its first records are deleted already, aiokafka goes to the first one that there is.
        self._assignment, self._next_offsets = None, dict.fromkeys(self._assigned().tps, 0)

    def _assigned(self) -> Any:
        return self._consumer._subscription.subscription.assignment


def _is_unreadable(record: Record, partition: TopicPartition) -> bool:
    if type(record) is not UnreadableBatch:
        return False
    place = f"{partition.topic}/{partition.partition}"
    log.error("skipped offsets %d to %d of %s: %s", record.first_offset, record.offset, place, record.reason)
    return True


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
        isolation_level="read_committed",
        # Of partitions that are added, and of a topic that is created again.
        auto_offset_reset="earliest",
        request_timeout_ms=int(_METADATA_SECONDS * 1000),
        # How soon new partitions are seen.
        metadata_max_age_ms=int(_METADATA_SECONDS * 1000),
        **kafka_security(settings),
    )
    try:
        with kafka_connection_errors(settings.kafka_bootstrap, topic):
            async with asyncio.timeout(CONNECT_SECONDS):
                await consumer.start()
                tail = Tail(settings, topic, consumer)
                await tail.start_at_end()
        yield tail
    finally:
        await stop_consumer(consumer)
