"""Workers as the registry knows them: a worker may be ready a moment before its lease is written."""

import asyncio

from registry.leases import Lease, Leases

DEADLINE_SECONDS = 30.0


async def until_so_many_live(leases: Leases, count: int) -> list[Lease]:
    """Wait until so many workers live; their leases."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while len(live := await leases.live()) < count:
            pass
    return live
