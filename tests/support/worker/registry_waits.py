"""Waiting for what workers and monitors write to the registry a moment after they have logged or published it."""

from registry.alert_events import AlertEvents
from registry.heartbeats import Heartbeats
from registry.worker_heartbeat import HEARTBEAT_TIMEOUT_SECONDS, WorkerHeartbeat
from tests.support.deadline import wait_until


async def live_heartbeats(heartbeats: Heartbeats) -> list[WorkerHeartbeat]:
    """The heartbeats of the live workers, ordered by name and boot."""
    return [
        heartbeat
        for heartbeat, age_seconds in await heartbeats.all()
        if age_seconds < HEARTBEAT_TIMEOUT_SECONDS
    ]


async def until_so_many_live(heartbeats: Heartbeats, count: int) -> list[WorkerHeartbeat]:
    """Wait until this many workers live; returns their heartbeats."""

    async def live() -> list[WorkerHeartbeat] | None:
        found = await live_heartbeats(heartbeats)
        return found if len(found) >= count else None

    return await wait_until(live, f"{count} live workers") or []


async def until_all_is_published(alert_events: AlertEvents) -> None:
    """Wait until PostgreSQL has every alert event as published."""

    async def published() -> bool:
        return not await alert_events.unpublished()

    await wait_until(published, "every alert event published")
