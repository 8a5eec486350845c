"""The members of a consumer group, as the broker sees them."""

from typing import Any

from aiokafka.errors import for_code
from aiokafka.protocol.group import LeaveGroupRequest

from streams.settings import Settings
from streams.topics import administration


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
