"""Telling the registry how far this worker has followed it."""

import asyncio

import structlog

from registry.leases import LEASE_SECONDS, Lease, Leases
from schemas.errors import RegistryUnavailableError, SetupError
from streams.config.identity import Identity
from streams.serving.route_table import ServedTables

log = structlog.get_logger()

# However seldom the registry is polled: who renews less often seems to be dead in between.
MAX_RENEW_SECONDS = LEASE_SECONDS / 5


async def keep_lease(
    leases: Leases, tables: ServedTables, identity: Identity, *, renew_seconds: float
) -> None:
    """Renew the lease each `renew_seconds`, or more often, and whenever this worker has come further.

    It tells the table that all answers from now on are by: a change is told when the last slice
    that began before it is answered, not before. Ends when cancelled.
    """
    while True:
        tables.changed.clear()
        table = tables.oldest()
        try:
            await leases.renew(Lease(identity.worker, identity.boot_id, table.epoch, table.behind))
        except (RegistryUnavailableError, SetupError) as error:
            log.debug("lease not renewed", reason=str(error))
        try:
            async with asyncio.timeout(min(renew_seconds, MAX_RENEW_SECONDS)):
                await tables.changed.wait()
        except TimeoutError:
            pass


async def end_lease(leases: Leases, identity: Identity) -> None:
    """Say that this worker lives no more, if the registry can be reached."""
    try:
        await leases.end(identity.worker, identity.boot_id)
    except (RegistryUnavailableError, SetupError) as error:
        log.info("lease not ended; it runs out by itself", reason=str(error))
