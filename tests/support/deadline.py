"""The one deadline of everything that tests wait for, and the ways to wait for it.

A test waits for a signal where there is one (`Signal`, an event, the end of a process), and polls with
`wait_until` what nothing signals: a row, an offset, a page. The deadline only ends a test that would wait
for ever; it is generous because the machine may be busy, and no test asserts that anything is faster.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final, TypeVar

DEADLINE_SECONDS: Final = 60.0
# Each poll asks a server that shares the machine with the product.
POLL_SECONDS: Final = 0.02

T = TypeVar("T")


@asynccontextmanager
async def deadline(what: str | Callable[[], str], seconds: float = DEADLINE_SECONDS) -> AsyncIterator[None]:
    """Fail the test if the block is still running at the deadline; `what` names what did not happen."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        missing = what if isinstance(what, str) else what()
        raise AssertionError(f"not within {seconds:g} s: {missing}") from None


async def wait_until(
    ask: Callable[[], Awaitable[T]], what: str | Callable[[], str], seconds: float = DEADLINE_SECONDS
) -> T:
    """Poll `ask` until it returns something true, and return that."""
    async with deadline(what, seconds):
        while not (found := await ask()):  # noqa: ASYNC110 - nothing signals what is polled
            await asyncio.sleep(POLL_SECONDS)
    return found


class Signal:
    """Wakes the tasks that wait for a condition whenever its value may have changed."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()

    def notify(self) -> None:
        self._changed.set()

    async def until(self, holds: Callable[[], object], what: str | Callable[[], str]) -> None:
        """Wait until `holds` is true; it is evaluated now and after each `notify`."""
        async with deadline(what):
            while not holds():
                self._changed.clear()
                await self._changed.wait()
