# ruff: noqa: SLF001  # the client of an aiokafka consumer has a private name only
"""Makes the workers of a group step over one record, while none of them runs."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import CommitFailedError
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from schemas.errors import InvalidRequestError, SkippedRecordError
from schemas.near_names import suggestion
from streams.config.security import kafka_security
from streams.config.settings import Settings
from streams.headrace_client.stopping import stop_consumer
from streams.kafka.attempt_ledger import attempts_at, begun_from
from streams.kafka.commit_metadata import CommitMetadata, decode_metadata, encode_metadata
from streams.kafka.errors import kafka_connection_errors, kafka_errors
from streams.kafka.offset_tracker import Partition
from streams.kafka.producer import open_producer
from streams.kafka.record_source import source_headers
from streams.kafka.stepping_over import reason_headers
from streams.kafka.topic_identity import is_other
from streams.kafka.topic_ids import read_topic_ids
from streams.kafka.topics import administration

CLOSE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class RecordToSkip:
    """A record that the group reads next."""

    group_id: str
    partition: Partition
    offset: int
    begun: CommitMetadata
    """What its workers have left behind."""


def group_of(settings: Settings, topic: str) -> str:
    """PURE. The consumer group of the role that reads a topic; raises InvalidRequestError."""
    groups = {
        settings.topic_requests: settings.group_id,
        settings.topic_promotions: settings.control_group_id,
        settings.topic_metrics: settings.monitor_group_id,
        settings.topic_responses: settings.log_group_id,
    }
    if topic not in groups:
        raise InvalidRequestError(
            f"no worker reads the topic {topic}; workers read {', '.join(groups)}{suggestion(topic, groups)}"
        )
    return groups[topic]


@asynccontextmanager
async def skipping(
    settings: Settings, partition: Partition, offset: int, *, group_id: str
) -> AsyncIterator["RecordSkip"]:
    """Connect, and check that the record is the next one of a group without members.

    Raises InvalidRequestError when it is not, SetupError, and BrokerUnavailableError.
    """
    topic, number = partition
    consumer: Any = AIOKafkaConsumer(
        bootstrap_servers=settings.kafka_bootstrap,
        group_id=group_id,
        enable_auto_commit=False,
        isolation_level="read_committed",
        **kafka_security(settings),
    )
    try:
        with kafka_connection_errors(settings.kafka_bootstrap, topic):
            await consumer.start()
        with kafka_errors(settings.kafka_bootstrap, topic):
            record = await _next_record(settings, consumer, group_id, partition)
        if record.offset != offset:
            raise InvalidRequestError(
                f"the group {group_id} reads offset {record.offset} of {topic}/{number} next; only that record can be "
                f"skipped, and {offset} was named"
            )
        yield RecordSkip(settings, consumer, record)
    finally:
        await stop_consumer(consumer)


class RecordSkip:
    """One record of a connected consumer, which is not skipped before `commit`."""

    def __init__(self, settings: Settings, consumer: Any, record: RecordToSkip) -> None:
        self._settings = settings
        self._consumer = consumer
        self.record = record

    async def write_dead_letter(self, reason: str) -> None:
        """Write a dead letter with the record's place and the reason; raises the errors of `kafka_errors`."""
        record, topic = self.record, self._settings.topic_dead_letters
        attempts = attempts_at(record.begun.begun, record.offset)
        headers = source_headers(record.partition, record.offset, record.begun.topic_id) + reason_headers(
            record.partition, record.offset, record.offset, SkippedRecordError(reason), attempts
        )
        async with open_producer(self._settings, topic, close_seconds=CLOSE_SECONDS) as producer:
            with kafka_errors(self._settings.kafka_bootstrap, topic):
                # `send` refuses a record without key and value.
                batch: Any = producer.create_batch()
                batch.append(timestamp=int(time.time() * 1000), key=None, value=None, headers=headers)
                await (await producer.send_batch(batch, topic, partition=0))

    async def commit(self) -> None:
        """Commit the offset behind the record; raises InvalidRequestError when a worker has joined the group."""
        record = self.record
        after = record.offset + 1
        begun = begun_from(record.begun.begun, after)
        metadata = CommitMetadata(begun, record.begun.topic_id)
        partition = TopicPartition(*record.partition)
        with kafka_errors(self._settings.kafka_bootstrap, record.partition.topic):
            self._consumer.assign([partition])
            try:
                await self._consumer.commit({partition: OffsetAndMetadata(after, encode_metadata(metadata))})
            except CommitFailedError:
                raise _has_members(record.group_id) from None


async def _next_record(
    settings: Settings, consumer: Any, group_id: str, partition: Partition
) -> RecordToSkip:
    topic, number = partition
    topic_partition = TopicPartition(*partition)
    async with administration(settings) as admin:
        (described,) = await admin.describe_topics([topic])
        numbers = {each["partition"] for each in described["partitions"]}
        if number not in numbers:
            has = f"it has 0 to {max(numbers)}" if numbers else "there is no such topic"
            raise InvalidRequestError(f"{topic} has no partition {number}: {has}")
        coordinator = await admin.find_coordinator(group_id)
        (groups,) = await admin.describe_consumer_groups([group_id], coordinator)
        if any(members for *_, members, _ in groups.groups):
            raise _has_members(group_id)
        known = await admin.list_consumer_group_offsets(group_id)
    begins = await consumer.beginning_offsets([topic_partition])
    ends = await consumer.end_offsets([topic_partition])
    topic_id = (await read_topic_ids(consumer._client, consumer._client.send, [topic])).get(topic, "")
    offset, metadata = begins[topic_partition], CommitMetadata()
    if topic_partition in known:
        committed = known[topic_partition]
        read = decode_metadata(committed.metadata)
        if not is_other(read.topic_id, topic_id):
            offset, metadata = max(offset, committed.offset), read
    if offset >= ends[topic_partition]:
        raise InvalidRequestError(
            f"the group {group_id} has read all of {topic}/{number}, which ends at offset {offset}: there is nothing to "
            "skip"
        )
    return RecordToSkip(
        group_id, partition, offset, CommitMetadata(metadata.begun, topic_id, metadata.parsing)
    )


def _has_members(group_id: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"the group {group_id} has members: stop its workers first; a worker that was killed stays a member for 8 s"
    )
