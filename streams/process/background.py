"""Background jobs of a role, which never end its process.

What a job raises is logged, counted and followed by another try: predictions, promotions or metrics do not depend on it.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from typing import NamedTuple

import structlog

from schemas.backoff import backoff_seconds
from schemas.errors import HeadraceError

log = structlog.get_logger()

FIRST_WAIT_SECONDS = 1.0
LONGEST_WAIT_SECONDS = 30.0
# A job that ran this long has started well: its next failure counts as a first one.
STEADY_SECONDS = 60.0

failed_steps: Counter[str] = Counter()
"""How often background work of this process failed, by its `failed_event`."""

OnFault = Callable[[BaseException], None]
"""Called with an error that must end the process; see `streams/worker.py`."""


class Job(NamedTuple):
    """Work that runs until it is cancelled; `failed_event` says what was not done when it fails."""

    failed_event: str
    run: Callable[[], Coroutine[object, object, None]]


class FailureLog:
    """Counts the failures of repeated work, and logs of each outage the first one of each error class at warning.

    A missing table must not be hidden by the server's restart before it. An error that Headrace does not raise itself
    is logged with its traceback.
    """

    def __init__(self, event: str) -> None:
        self._event = event
        self._logged: set[type[Exception]] = set()
        failed_steps[event] += 0

    def failed(self, error: Exception, **concerned: str) -> None:
        """Report a failure of the work; `concerned` says in the log on what."""
        failed_steps[self._event] += 1
        if type(error) not in self._logged:
            self._logged.add(type(error))
            foreseen = isinstance(error, HeadraceError)
            reason = str(error) or repr(error)
            log.warning(self._event, reason=reason, exc_info=None if foreseen else error, **concerned)

    def succeeded(self) -> None:
        """End the outage: the next failure begins another one."""
        self._logged.clear()


@asynccontextmanager
async def background(*jobs: Job) -> AsyncIterator[None]:
    """Run `jobs` concurrently, and cancel them when the block ends. A job that fails is started again, with pauses."""
    tasks = [asyncio.create_task(_run_again(job)) for job in jobs]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def periodic(step: Callable[[], Awaitable[object]], *, interval_seconds: float, failed_event: str) -> Job:
    """A job that runs `step` now and after each `interval_seconds`, whatever it raises."""
    return Job(failed_event, partial(_run_periodically, step, interval_seconds, failed_event))


async def run_each(*steps: Callable[[], Awaitable[object]]) -> None:
    """Run independent steps in turn, each also after a failure of another; then raise the first error."""
    first_error: Exception | None = None
    for step in steps:
        try:
            await step()
        except Exception as error:  # noqa: BLE001  # raised below
            first_error = first_error or error
    if first_error is not None:
        raise first_error


async def _run_again(job: Job) -> None:
    failures = FailureLog(job.failed_event)
    in_a_row = 0
    while True:
        began = time.monotonic()
        try:
            await job.run()
        except Exception as error:  # noqa: BLE001  # it is logged and counted
            if time.monotonic() - began >= STEADY_SECONDS:
                in_a_row = 0
                failures.succeeded()
            failures.failed(error)
            in_a_row += 1
        await asyncio.sleep(
            backoff_seconds(
                max(in_a_row, 1), first_seconds=FIRST_WAIT_SECONDS, longest_seconds=LONGEST_WAIT_SECONDS
            )
        )


async def _run_periodically(
    step: Callable[[], Awaitable[object]], interval_seconds: float, failed_event: str
) -> None:
    failures = FailureLog(failed_event)
    while True:
        try:
            await step()
        except Exception as error:  # noqa: BLE001  # it is logged and counted
            failures.failed(error)
        else:
            failures.succeeded()
        await asyncio.sleep(interval_seconds)
