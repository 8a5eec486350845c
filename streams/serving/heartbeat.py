"""The heartbeat of this worker: how far it has followed the registry."""

import asyncio

import structlog

from registry.heartbeats import Heartbeats
from registry.worker_heartbeat import HEARTBEAT_TIMEOUT_SECONDS, WorkerHeartbeat
from schemas.errors import HeadraceError
from streams.config.identity import Identity
from streams.process.background import FailureLog
from streams.serving.active_tables import ActiveTables

log = structlog.get_logger()

HEARTBEAT_NOT_SENT = "heartbeat not sent"
# Also where the registry is polled less often: a longer interval would look like a dead worker.
MAX_INTERVAL_SECONDS = HEARTBEAT_TIMEOUT_SECONDS / 5


async def send_heartbeats(
    heartbeats: Heartbeats, tables: ActiveTables, identity: Identity, *, interval_seconds: float
) -> None:
    """Send a heartbeat after each change, and at least each `interval_seconds` or `MAX_INTERVAL_SECONDS`.

    Runs until cancelled. The heartbeat carries the epoch of the oldest table in use: an epoch is reported when
    the last slice that began before it is answered, not earlier.
    """
    failures = FailureLog(HEARTBEAT_NOT_SENT)
    while True:
        tables.changed.clear()
        table = tables.oldest()
        try:
            await heartbeats.record(
                WorkerHeartbeat(
                    identity.worker,
                    identity.boot_id,
                    table.epoch,
                    table.behind,
                    table.older_revisions,
                    # What can be loaded does not depend on the slices in flight.
                    tables.current.unloadable,
                )
            )
        except Exception as error:  # noqa: BLE001  # it is logged and counted
            failures.failed(error)
        else:
            failures.succeeded()
        try:
            async with asyncio.timeout(min(interval_seconds, MAX_INTERVAL_SECONDS)):
                await tables.changed.wait()
        except TimeoutError:
            pass


async def remove_heartbeat(heartbeats: Heartbeats, identity: Identity) -> None:
    """Delete this worker's heartbeat. If the registry cannot be reached, the heartbeat times out."""
    try:
        await heartbeats.remove(identity.worker, identity.boot_id)
    except HeadraceError as error:
        log.info("heartbeat not removed; it times out", reason=str(error))
