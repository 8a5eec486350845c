"""Changes on the broker: remove the members of a group, limit the size of a topic's batches."""

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
    """Remove all members from the group, as the broker does 8 s after their last heartbeat; return their number."""
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
    """Set the largest batch, in bytes, that each topic accepts."""
    resources = [
        ConfigResource(ConfigResourceType.TOPIC, topic, configs={"max.message.bytes": str(limit)})
        for topic, limit in limits.items()
    ]
    async with administration(settings) as admin:
        for response in await admin.alter_configs(resources):
            assert {code for code, *_ in response.resources} == {0}
