"""Trying again until PostgreSQL is there, for what may wait and must not be lost."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from schemas.errors import RegistryUnavailableError, SetupError

log = structlog.get_logger()

FIRST_RETRY_SECONDS = 0.1
MAX_RETRY_SECONDS = 1.0

Result = TypeVar("Result")


async def until_reachable(ask: Callable[[], Awaitable[Result]], *, waiting: str) -> Result:
    """What `ask` returns once it does not raise RegistryUnavailableError or SetupError.

    A registry that is not set up, as before a migration, is no reason to lose anything either. Whether a
    question that failed was answered may be unknown, so it must be safe to ask again. `waiting` says in the
    log what waits.
    """
    notice = f"registry not reachable; {waiting} wait"
    pause_seconds = FIRST_RETRY_SECONDS
    while True:
        try:
            return await ask()
        except (RegistryUnavailableError, SetupError) as error:
            if pause_seconds == FIRST_RETRY_SECONDS:
                log.warning(notice, reason=str(error))
        await asyncio.sleep(pause_seconds * random.uniform(0.5, 1.0))  # noqa: S311  # no secret
        pause_seconds = min(2 * pause_seconds, MAX_RETRY_SECONDS)
