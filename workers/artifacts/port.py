"""The port of model file sources, each of which has a file, and what they share."""

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
    """A file's content in chunks of CHUNK_BYTES, the last one shorter; `total_bytes` is None when unknown.

    The iteration has no timeout of its own; it raises ArtifactError and UnavailableError.
    """

    total_bytes: int | None
    chunks: AsyncGenerator[bytes, None]


class ArtifactSource(Protocol):
    """One model file. `uri` has no secret and may be shown."""

    @property
    def uri(self) -> str: ...

    def open(self) -> AbstractAsyncContextManager[ArtifactStream]:
        """Begin to read the file.

        Raises ArtifactError when the file does not exist or access is denied, UnavailableError when its
        server does not answer.
        """
        ...


async def in_thread(function: Callable[P, Answer], *args: P.args, **kwargs: P.kwargs) -> Answer:
    """Like `asyncio.to_thread`, but a cancellation is raised only after the thread has ended.

    The caller may then close and delete what the thread used.
    """
    work = asyncio.ensure_future(asyncio.to_thread(function, *args, **kwargs))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait([work])
        # Retrieve the exception, so that asyncio does not report it as never retrieved.
        work.cancelled() or work.exception()
        raise
