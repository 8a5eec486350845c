"""streams/process/background.py: jobs of a role that fail and go on, their count and their log."""

import asyncio
from functools import partial

import pytest
from structlog.testing import capture_logs

from schemas.errors import RegistryUnavailableError, SetupError
from streams.process import background as background_module
from streams.process.background import FailureLog, Job, background, failed_steps, periodic, run_each
from tests.support.deadline import DEADLINE_SECONDS


async def test_a_job_that_fails_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it raises, and when it ends by itself; the other jobs go on, and each failure is counted."""
    monkeypatch.setattr(background_module, "FIRST_WAIT_SECONDS", 0.0)
    outcomes: list[Exception | None] = [
        ZeroDivisionError(),
        SetupError("no table"),
        None,
        ZeroDivisionError(),
    ]
    done, cancelled = asyncio.Event(), asyncio.Event()

    async def fails() -> None:
        if not outcomes:
            done.set()
            await asyncio.Event().wait()
        error = outcomes.pop(0)
        if error is not None:
            raise error

    async def waits() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    with capture_logs() as logs:
        async with background(Job("a test job failed", fails), Job("another failed", waits)):
            await asyncio.wait_for(done.wait(), DEADLINE_SECONDS)
            assert not cancelled.is_set()
    assert cancelled.is_set()
    assert [(line["event"], line["reason"]) for line in logs] == [
        ("a test job failed", "ZeroDivisionError()"),
        ("a test job failed", "no table"),
    ]
    assert (failed_steps["a test job failed"], failed_steps["another failed"]) == (3, 0)


async def test_a_periodic_step_continues_after_failures() -> None:
    """Each is counted; of each outage the first of a class is logged, with a traceback if nobody foresaw it."""
    outcomes: list[Exception | None] = [
        RegistryUnavailableError("PostgreSQL does not answer"),
        RegistryUnavailableError("PostgreSQL does not answer"),
        ZeroDivisionError(),
        None,
        RegistryUnavailableError("PostgreSQL does not answer"),
    ]
    done = asyncio.Event()

    async def step() -> None:
        if not outcomes:
            done.set()
            await asyncio.Event().wait()
        error = outcomes.pop(0)
        if error is not None:
            raise error

    with capture_logs() as logs:
        async with background(periodic(step, interval_seconds=0, failed_event="a test step failed")):
            await asyncio.wait_for(done.wait(), DEADLINE_SECONDS)
    assert [(line["reason"], bool(line["exc_info"])) for line in logs] == [
        ("PostgreSQL does not answer", False),
        ("ZeroDivisionError()", True),
        ("PostgreSQL does not answer", False),
    ]
    assert failed_steps["a test step failed"] == 4


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
