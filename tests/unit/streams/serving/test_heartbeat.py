"""streams/serving/heartbeat.py: what a heartbeat reports, and a worker whose heartbeats are lost says so."""

import asyncio
from typing import cast

import pytest
from structlog.testing import capture_logs

from registry.heartbeats import Heartbeats
from registry.worker_heartbeat import WorkerHeartbeat
from schemas.errors import SetupError
from streams.config.identity import Identity
from streams.process.background import failed_steps
from streams.serving.active_tables import ActiveTables
from streams.serving.heartbeat import HEARTBEAT_NOT_SENT, send_heartbeats
from streams.serving.route_table import ServingTable
from tests.support.deadline import deadline


class MissingTable:
    """Fails as PostgreSQL does before the migration, except for the third heartbeat; at the fifth as nobody foresaw."""

    def __init__(self, tables: ActiveTables) -> None:
        self._tables = tables
        self._sent = 0
        self.done = asyncio.Event()

    async def record(self, _: WorkerHeartbeat) -> None:
        await asyncio.sleep(0)
        self._tables.changed.set()
        self._sent += 1
        if self._sent > 5:
            self.done.set()
        if self._sent == 5:
            raise ZeroDivisionError
        if self._sent != 3:
            raise SetupError("run headrace init")


async def test_the_first_failure_of_an_outage_is_a_warning() -> None:
    """An operator waits in vain for a worker without heartbeats, so its log must say why."""
    tables = ActiveTables()
    before = failed_steps[HEARTBEAT_NOT_SENT]
    missing = MissingTable(tables)
    with capture_logs() as logs:
        sending = asyncio.create_task(
            send_heartbeats(
                cast("Heartbeats", missing), tables, Identity("me", "boot"), interval_seconds=60.0
            )
        )
        async with deadline("six heartbeats"):
            await missing.done.wait()
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
    assert [(line["log_level"], line["event"], line["reason"]) for line in logs] == [
        ("warning", HEARTBEAT_NOT_SENT, reason)
        for reason in ("run headrace init", "run headrace init", "ZeroDivisionError()")
    ]
    assert failed_steps[HEARTBEAT_NOT_SENT] - before >= 4


class RecordedHeartbeats:
    """Keeps what is recorded."""

    def __init__(self) -> None:
        self.recorded: asyncio.Queue[WorkerHeartbeat] = asyncio.Queue()

    async def record(self, heartbeat: WorkerHeartbeat) -> None:
        self.recorded.put_nowait(heartbeat)


async def test_a_slice_in_flight_keeps_the_epoch_and_not_what_could_not_be_loaded() -> None:
    """A version that is loaded by now may get traffic, while a slow slice holds the older table."""
    tables, heartbeats = ActiveTables(), RecordedHeartbeats()
    tables.swap(ServingTable(1, {}, {"m": "v2 cannot be loaded"}, {"m": {"v2": "no such file"}}))
    sending = asyncio.create_task(
        send_heartbeats(cast("Heartbeats", heartbeats), tables, Identity("me", "boot"), interval_seconds=60.0)
    )
    with tables.in_use():
        async with deadline("two heartbeats"):
            assert (await heartbeats.recorded.get()).unloadable == {"m": {"v2": "no such file"}}
            tables.swap(ServingTable(2))
            sent = await heartbeats.recorded.get()
        assert (sent.epoch, sent.unloadable) == (1, {})
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
