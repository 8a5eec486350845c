"""streams/process/background.py: jobs of a role, their end, and the log of periodic failures."""

import asyncio
from functools import partial

import pytest
from structlog.testing import capture_logs

from schemas.errors import RegistryUnavailableError, SetupError
from streams.process.background import FailureLog, background, failed_steps, run_each, run_periodically
from tests.support.deadline import DEADLINE_SECONDS


async def test_a_job_that_ends_is_a_fault() -> None:
    """With its own error, or with one that says that it ended."""
    faults: asyncio.Queue[BaseException] = asyncio.Queue()

    async def fails() -> None:
        raise ZeroDivisionError

    async def ends() -> None:
        pass

    async with background(faults.put_nowait, fails(), ends()):
        seen = {type(await asyncio.wait_for(faults.get(), DEADLINE_SECONDS)) for _ in range(2)}
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
        await asyncio.wait_for(done.wait(), DEADLINE_SECONDS)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert [(line["event"], line["reason"]) for line in logs] == [
        ("step failed", "PostgreSQL does not answer")
    ] * 2


async def test_a_periodic_step_continues_after_faults_that_nobody_foresaw() -> None:
    """Each is counted; a chore must not end the predictions of its process."""
    done = asyncio.Event()
    failures = 0

    async def step() -> None:
        nonlocal failures
        failures += 1
        if failures > 3:
            done.set()
            await asyncio.Event().wait()
        raise ZeroDivisionError

    with capture_logs() as logs:
        running = asyncio.create_task(
            run_periodically(step, interval_seconds=0, failed_event="a test failed")
        )
        await asyncio.wait_for(done.wait(), DEADLINE_SECONDS)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert [(line["event"], line["reason"]) for line in logs] == [("a test failed", "ZeroDivisionError()")]
    assert failed_steps["a test failed"] == 3


async def test_independent_steps_do_not_stop_each_other() -> None:
    """All run; the first error is the one that is reported."""
    ran: list[int] = []

    async def step(number: int) -> None:
        ran.append(number)
        if number % 2:
            raise RegistryUnavailableError(f"step {number}")

    with pytest.raises(RegistryUnavailableError, match="step 1"):
        await run_each(*(partial(step, number) for number in range(5)))
    assert ran == [0, 1, 2, 3, 4]


def test_each_outage_logs_the_first_failure_of_each_class() -> None:
    """PostgreSQL restarts, then lacks a table: both reasons are logged once, and again in the next outage."""
    failures = FailureLog("step failed")
    with capture_logs() as logs:
        for reason in ("starting", "still starting"):
            failures.failed(RegistryUnavailableError(reason))
        for reason in ("no table", "still no table"):
            failures.failed(SetupError(reason))
        failures.succeeded()
        failures.failed(SetupError("no table again"))
    assert [(line["log_level"], line["reason"]) for line in logs] == [
        ("warning", "starting"),
        ("warning", "no table"),
        ("warning", "no table again"),
    ]
