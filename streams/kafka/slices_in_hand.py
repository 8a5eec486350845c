"""The slices that a worker handles now: finished before their partitions go, or handed back."""

import asyncio
from collections.abc import Coroutine


class SlicesInHand:
    """The tasks that handle slices."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, handling: Coroutine[None, None, None]) -> None:
        """Handle a slice in a task of its own."""
        task = asyncio.create_task(handling)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def finish(self, timeout_seconds: float) -> int:
        """Wait for the slices in hand, then cancel those that take longer; returns the number of these.

        A handler that is cancelled keeps what it has answered: it may wait for deliveries, as long again.
        """
        if not self._tasks:
            return 0
        _, late = await asyncio.wait(set(self._tasks), timeout=timeout_seconds)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=timeout_seconds)
        return len(late)
