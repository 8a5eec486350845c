"""Work for PostgreSQL that must not be lost: asked again until it answers, and stored but for what it refuses."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import structlog

from schemas.backoff import backoff_seconds
from schemas.errors import DataRefusedError, RegistryFaultError, RegistryUnavailableError, SetupError

log = structlog.get_logger()

FIRST_RETRY_SECONDS = 0.1
MAX_RETRY_SECONDS = 1.0

Item = TypeVar("Item")
Result = TypeVar("Result")


async def until_reachable(
    ask: Callable[[], Awaitable[Result]], *, waiting: str, retry_faults: bool = True
) -> Result:
    """Call `ask` until it raises neither RegistryUnavailableError nor SetupError; return its result.

    A RegistryFaultError is raised where `retry_faults` is False: for an item that must not hold up those behind it.

    SetupError is waited out too: before a migration the registry is not set up, and nothing may be lost by
    that. A call that failed may have been carried out, so `ask` must be safe to repeat. `waiting` names in the
    log what waits, in the plural.
    """
    notice = f"registry not reachable; {waiting} wait"
    tries = 0
    while True:
        try:
            return await ask()
        except (RegistryUnavailableError, SetupError) as error:
            if isinstance(error, RegistryFaultError) and not retry_faults:
                raise
            tries += 1
            if tries == 1:
                log.warning(notice, reason=str(error))
        pause_seconds = backoff_seconds(
            tries,
            first_seconds=FIRST_RETRY_SECONDS,
            longest_seconds=MAX_RETRY_SECONDS,
            chance=random.uniform(0.5, 1.0),  # noqa: S311  # no secret
        )
        await asyncio.sleep(pause_seconds)


async def store_accepted(
    store: Callable[[Sequence[Item]], Awaitable[Result]],
    items: Sequence[Item],
    *,
    refuse: Callable[[Item, DataRefusedError], None],
) -> list[Result]:
    """Store items in their order, all at once; when PostgreSQL refuses a value in them, in halves, down to one item.

    Returns the results of the calls that succeeded. `refuse` is called with each item that cannot be stored. `store`
    stores all of its items or none.
    """
    try:
        return [await store(items)]
    except DataRefusedError as error:
        if len(items) == 1:
            refuse(items[0], error)
            return []
    middle = len(items) // 2
    return [
        *await store_accepted(store, items[:middle], refuse=refuse),
        *await store_accepted(store, items[middle:], refuse=refuse),
    ]
