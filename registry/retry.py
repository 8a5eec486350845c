"""Asking PostgreSQL again until it answers, for work that may wait and must not be lost."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from schemas.backoff import backoff_seconds
from schemas.errors import RegistryUnavailableError, SetupError

log = structlog.get_logger()

FIRST_RETRY_SECONDS = 0.1
MAX_RETRY_SECONDS = 1.0

Result = TypeVar("Result")


async def until_reachable(ask: Callable[[], Awaitable[Result]], *, waiting: str) -> Result:
    """Call `ask` until it raises neither RegistryUnavailableError nor SetupError; return its result.

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
