"""streams/process/background.py: jobs of a role, their end, and the log of periodic failures."""

import asyncio

import pytest
from structlog.testing import capture_logs

from schemas.errors import RegistryUnavailableError
from streams.process.background import background, run_periodically


async def test_a_job_that_ends_is_a_fault() -> None:
    """With its own error, or with one that says that it ended."""
    faults: asyncio.Queue[BaseException] = asyncio.Queue()

    async def fails() -> None:
        raise ZeroDivisionError

    async def ends() -> None:
        pass

    async with background(faults.put_nowait, fails(), ends()):
        seen = {type(await asyncio.wait_for(faults.get(), 5)) for _ in range(2)}
    assert seen == {ZeroDivisionError, RuntimeError}


async def test_jobs_are_cancelled_at_the_end_of_the_block() -> None:
    """Their cancellation is no fault."""
    faults: list[BaseException] = []
    cancelled = asyncio.Event()

    async def waits() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async with background(faults.append, waits()):
        await asyncio.sleep(0)
    assert cancelled.is_set()
    assert faults == []


async def test_a_periodic_step_continues_after_failures() -> None:
    """The first of consecutive failures is logged."""
    outcomes = iter([False, False, True, False, True])
    done = asyncio.Event()

    async def step() -> None:
        succeeds = next(outcomes, None)
        if succeeds is None:
            done.set()
        elif not succeeds:
            raise RegistryUnavailableError("PostgreSQL does not answer")

    with capture_logs() as logs:
        running = asyncio.create_task(run_periodically(step, interval_seconds=0, failed_event="step failed"))
        await asyncio.wait_for(done.wait(), 5)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert [(line["event"], line["reason"]) for line in logs] == [
        ("step failed", "PostgreSQL does not answer")
    ] * 2
