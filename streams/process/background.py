"""Background tasks of a role.

The end of a task is a fault of the process. A periodic step that fails is none: it is logged, counted and tried again.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager

import structlog

from schemas.errors import HeadraceError

log = structlog.get_logger()

failed_steps: Counter[str] = Counter()
"""How often periodic steps of this process failed, by their `failed_event`."""

OnFault = Callable[[BaseException], None]
"""Called with an error that must end the process; see `streams/worker.py`."""


class FailureLog:
    """Logs the failures of a repeated step as `event`, at warning: of each outage the first one of each error class.

    A missing table must not be hidden by the server's restart before it.
    """

    def __init__(self, event: str) -> None:
        self._event = event
        self._logged: set[type[Exception]] = set()

    def failed(self, error: Exception) -> None:
        """Report a failure of the step."""
        if type(error) not in self._logged:
            self._logged.add(type(error))
            log.warning(self._event, reason=str(error))

    def succeeded(self) -> None:
        """End the outage: the next failure begins another one."""
        self._logged.clear()


@asynccontextmanager
async def background(on_fault: OnFault, *jobs: Coroutine[object, object, None]) -> AsyncIterator[None]:
    """Run `jobs` concurrently and cancel them when the block ends; a job that ends earlier is a fault."""

    def ended(task: asyncio.Task[None]) -> None:
        on_fault(task.exception() or RuntimeError("a background task ended"))

    tasks = [asyncio.create_task(job) for job in jobs]
    for task in tasks:
        task.add_done_callback(ended)
    try:
        yield
    finally:
        for task in tasks:
            task.remove_done_callback(ended)
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def run_periodically(
    step: Callable[[], Awaitable[None]], *, interval_seconds: float, failed_event: str
) -> None:
    """Run `step` until cancelled, whatever it raises; log the first of consecutive failures as `failed_event`."""
    works = True
    failed_steps[failed_event] += 0
    while True:
        try:
            await step()
            works = True
        except Exception as error:  # a chore that fails must not end predictions
            failed_steps[failed_event] += 1
            if works:
                foreseen = isinstance(error, HeadraceError)
                log.warning(failed_event, reason=str(error) or repr(error), exc_info=not foreseen)
            works = False
        await asyncio.sleep(interval_seconds)


async def run_each(*steps: Callable[[], Awaitable[object]]) -> None:
    """Run independent steps in turn, each also after a failure of another; then raise the first error."""
    first_error: HeadraceError | None = None
    for step in steps:
        try:
            await step()
        except HeadraceError as error:
            first_error = first_error or error
    if first_error is not None:
        raise first_error
