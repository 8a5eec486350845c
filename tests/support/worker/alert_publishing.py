"""What a monitor does after the record of an alert's event is in its topic."""

import asyncio

from registry.alert_states import AlertStates

DEADLINE_SECONDS = 30.0


async def until_all_is_published(states: AlertStates) -> None:
    """An event stands in its topic a moment before PostgreSQL says that it does."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while await states.unpublished():
            pass
