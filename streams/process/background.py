"""Background tasks of a role, whose failure is a fault of the process."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager

import structlog

from schemas.errors import RegistryUnavailableError, SetupError

log = structlog.get_logger()

OnFault = Callable[[BaseException], None]
"""Called with an error that must end the process; see `streams/worker.py`."""


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
    """Run `step` until cancelled; log the first of consecutive failures of the registry as `failed_event`."""
    works = True
    while True:
        try:
            await step()
            works = True
        except (RegistryUnavailableError, SetupError) as error:
            if works:
                log.warning(failed_event, reason=str(error))
            works = False
        await asyncio.sleep(interval_seconds)
