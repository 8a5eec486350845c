"""Background tasks of a role, whose failure is a fault of the process."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager

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
