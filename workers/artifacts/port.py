"""The port to wherever model files are kept: one implementation a file, and what they share."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
Answer = TypeVar("Answer")

CHUNK_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class ArtifactStream:
    """A file on its way: chunks of CHUNK_BYTES, the last one shorter; None where its size is not told.

    A chunk takes as long as its source lets it; raises ArtifactError and UnavailableError.
    """

    total_bytes: int | None
    chunks: AsyncGenerator[bytes, None]


class ArtifactSource(Protocol):
    """One file somewhere. `uri` holds no secret and may be shown."""

    @property
    def uri(self) -> str: ...

    def open(self) -> AbstractAsyncContextManager[ArtifactStream]:
        """Begin to read it.

        Raises ArtifactError when there is no such file or it may not be read, UnavailableError when
        whoever keeps it does not answer.
        """
        ...


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
