"""What tests change on the broker: the members of a group, and what topics take."""

from collections.abc import Mapping
from typing import Any

from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import for_code
from aiokafka.protocol.group import LeaveGroupRequest

from streams.config.settings import Settings
from streams.kafka.topics import administration

# Kafka's own default.
DEFAULT_MESSAGE_BYTES = 1_048_588


async def expire_members(settings: Settings, group_id: str) -> int:
    """Have the broker forget all members, as it does by itself 8 s after the last sign of life; how many there were."""
    async with administration(settings) as admin:
        coordinator = await admin.find_coordinator(group_id)
        (described,) = await admin.describe_consumer_groups([group_id], coordinator)
        (group,) = described.groups
        member_ids: list[str] = [member[0] for member in group[5]]
        for member_id in member_ids:
            left: Any = await admin._send_request(LeaveGroupRequest(group_id, member_id), coordinator)
            if left.error_code:
                raise for_code(left.error_code)
    return len(member_ids)


async def set_message_limits(settings: Settings, limits: Mapping[str, int]) -> None:
    """Let topics take batches of so many bytes."""
    resources = [
        ConfigResource(ConfigResourceType.TOPIC, topic, configs={"max.message.bytes": str(limit)})
        for topic, limit in limits.items()
    ]
    async with administration(settings) as admin:
        for response in await admin.alter_configs(resources):
            assert {code for code, *_ in response.resources} == {0}
