"""Waiting for workers' heartbeats: a worker may be ready a moment before its first one is written."""

import asyncio

from registry.heartbeats import Heartbeats, WorkerHeartbeat

DEADLINE_SECONDS = 30.0


async def until_so_many_live(heartbeats: Heartbeats, count: int) -> list[WorkerHeartbeat]:
    """Wait until at least `count` workers are live; return their heartbeats."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while len(live := await heartbeats.live()) < count:
            pass
    return live
