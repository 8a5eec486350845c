"""Work off the event loop that is over when its caller is."""

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
Answer = TypeVar("Answer")


async def in_thread(function: Callable[P, Answer], *args: P.args, **kwargs: P.kwargs) -> Answer:
    """As `asyncio.to_thread`, but a caller that is cancelled goes on only when the thread has ended.

    So it may close and delete what the thread worked on.
    """
    work = asyncio.ensure_future(asyncio.to_thread(function, *args, **kwargs))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait([work])
        # Nobody asks for it any more; asked once, it is not reported as forgotten.
        work.cancelled() or work.exception()
        raise
