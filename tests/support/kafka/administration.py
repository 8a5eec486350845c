"""Changes on the broker: remove the members of a group, limit a topic's batches, make a topic anew,
move offsets, delete records.
"""

from collections.abc import Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.admin.records_to_delete import RecordsToDelete
from aiokafka.errors import for_code
from aiokafka.protocol.group import LeaveGroupRequest
from aiokafka.structs import OffsetAndMetadata

from streams.config.settings import Settings
from streams.headrace_client.stopping import stop_consumer
from streams.kafka.topics import administration
from tests.support.deadline import wait_until

# Kafka's own default.
DEFAULT_MESSAGE_BYTES = 1_048_588
_NO_ERROR = 0


async def members(settings: Settings, group_id: str) -> dict[str, str]:
    """The member ids of a group, by client id."""
    async with administration(settings) as admin:
        return await _members(admin, group_id)


async def expire_members(settings: Settings, group_id: str) -> int:
    """Remove all members from the group, as the broker does 8 s after their last heartbeat; return their number."""
    async with administration(settings) as admin:
        found = await _members(admin, group_id)
        for member_id in found.values():
            coordinator = await admin.find_coordinator(group_id)
            left: Any = await admin._send_request(LeaveGroupRequest(group_id, member_id), coordinator)
            if left.error_code:
                raise for_code(left.error_code)
    return len(found)


async def set_message_limits(settings: Settings, limits: Mapping[str, int]) -> None:
    """Set the largest batch, in bytes, that each topic accepts."""
    resources = [
        ConfigResource(ConfigResourceType.TOPIC, topic, configs={"max.message.bytes": str(limit)})
        for topic, limit in limits.items()
    ]
    async with administration(settings) as admin:
        for response in await admin.alter_configs(resources):
            assert {code for code, *_ in response.resources} == {0}


async def until_known(producer: AIOKafkaProducer, topic: str, partition: int) -> None:
    """Wait until a producer may send to a partition: the broker tells of a new one a moment after it was created."""

    async def is_known() -> bool:
        await producer.client.force_metadata_update()
        return partition in await producer.partitions_for(topic)

    await wait_until(is_known, f"partition {partition} of {topic}")


async def make_anew(settings: Settings, topic: str, partitions: int) -> None:
    """Delete a topic and create it as soon as the broker lets us."""
    async with administration(settings) as admin:
        await admin.delete_topics([topic])

        async def created() -> bool:
            response = await admin.create_topics([NewTopic(topic, partitions, 1)])
            return bool(response.topic_errors[0][1] == _NO_ERROR)

        await wait_until(created, "the new topic")


async def committed_offsets(settings: Settings, group_id: str) -> dict[TopicPartition, OffsetAndMetadata]:
    """What a group has committed."""
    async with administration(settings) as admin:
        offsets: dict[TopicPartition, OffsetAndMetadata] = await admin.list_consumer_group_offsets(group_id)
    return offsets


async def commit_for(
    settings: Settings, group_id: str, offsets: Mapping[TopicPartition, OffsetAndMetadata]
) -> None:
    """Commit offsets for a group that has no members."""
    consumer: Any = AIOKafkaConsumer(
        bootstrap_servers=settings.kafka_bootstrap, group_id=group_id, enable_auto_commit=False
    )
    await consumer.start()
    try:
        consumer.assign(list(offsets))
        await consumer.commit(offsets)
    finally:
        await stop_consumer(consumer)


async def delete_records(settings: Settings, topic: str, before_offset: int) -> None:
    """Delete the records of partition 0 before an offset, as retention does."""
    async with administration(settings) as admin:
        await admin.delete_records({TopicPartition(topic, 0): RecordsToDelete(before_offset=before_offset)})


async def _members(admin: Any, group_id: str) -> dict[str, str]:
    coordinator = await admin.find_coordinator(group_id)
    (described,) = await admin.describe_consumer_groups([group_id], coordinator)
    (group,) = described.groups
    return {client_id: member_id for member_id, client_id, *_ in group[5]}
