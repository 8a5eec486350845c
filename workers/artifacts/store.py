"""Model files: fetched, verified, and kept where the loader finds exactly what was verified.

A file is streamed into a folder of its own, named by its SHA-256, and hashed on the way; what is
loaded is that copy. Nothing else is in the folder, so a model that refers to data beside itself
does not load: the digest that an operator registered covers all that a version is made of. A
model is one file.

Only the loader of the declared framework ever reads the file. Nothing is unpickled or imported.
"""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

import structlog

from schemas.errors import ArtifactError, UnavailableError
from workers.artifacts.folder import ArtifactFolder, HeldFile, IncomingFile
from workers.artifacts.pickles import refuse_pickle_content, refuse_pickle_name
from workers.artifacts.port import CHUNK_BYTES, ArtifactSource, in_thread

log = structlog.get_logger()

P = ParamSpec("P")
Answer = TypeVar("Answer")

Progress = Callable[[int, int | None], None]
"""Told, as a file comes, how many bytes are there, and of how many if that is known."""

STALL_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file in the cache, and what it is."""

    path: Path
    sha256: str
    size_bytes: int


class ArtifactStore:
    """Fetches model files into `folder`, from where `source_of` says that a URI is.

    A file of more than `max_bytes` is refused; of those that are kept, the longest unused go when they
    are more than `cache_bytes` together. A source that does not begin, or gives less than a chunk
    (1 MiB), within `stall_seconds` is given up.
    """

    def __init__(
        self,
        folder: Path,
        source_of: Callable[[str], ArtifactSource],
        *,
        max_bytes: int,
        cache_bytes: int,
        stall_seconds: float = STALL_SECONDS,
    ) -> None:
        self._folder = ArtifactFolder(folder, max_bytes=cache_bytes)
        self._source_of = source_of
        self._max_bytes = max_bytes
        self._stall_seconds = stall_seconds

    @asynccontextmanager
    async def fetched(
        self, uri: str, sha256: str, on_progress: Progress | None = None
    ) -> AsyncIterator[Path]:
        """The path of a local copy of `uri` whose content has this SHA-256 (lower-case hex).

        It stays there inside the `async with`, whatever other processes fetch. Raises ArtifactError
        when the file cannot be had or kept, is too large, is a pickle or has another content, and
        UnavailableError when it may be there later. A fetch that fails or is cancelled leaves nothing.
        """
        source = self._source(uri)
        async with self._held(sha256) as held:
            # What is in the cache may have been changed since: it is verified at each use.
            if not await self._holds(held, sha256):
                async with self._incoming() as incoming:
                    actual, _ = await self._receive(source, incoming, on_progress)
                    if actual != sha256:
                        raise ArtifactError(
                            f"{source.uri} has SHA-256 {actual}, but {sha256} is registered; put the file "
                            "that was meant there, or register the digest of this one"
                        )
                    await self._on_disk(incoming.keep, held)
            yield held.path

    @asynccontextmanager
    async def received(self, uri: str, on_progress: Progress | None = None) -> AsyncIterator[Artifact]:
        """A local copy of what is at `uri` now, with the digest that it has; otherwise as `fetched`."""
        source = self._source(uri)
        async with self._incoming() as incoming:
            sha256, size_bytes = await self._receive(source, incoming, on_progress)
            async with self._held(sha256) as held:
                await self._on_disk(incoming.keep, held)
                yield Artifact(held.path, sha256, size_bytes)

    def _source(self, uri: str) -> ArtifactSource:
        source = self._source_of(uri)
        refuse_pickle_name(source.uri)
        return source

    @asynccontextmanager
    async def _held(self, sha256: str) -> AsyncGenerator[HeldFile, None]:
        held = self._folder.place(sha256)
        try:
            yield held
        finally:
            await in_thread(held.release)
            try:
                await in_thread(self._folder.make_room, keep=held.path)
            except OSError as error:
                log.warning(
                    "no room made among model files", folder=str(self._folder.path), reason=str(error)
                )

    @asynccontextmanager
    async def _incoming(self) -> AsyncGenerator[IncomingFile, None]:
        incoming = self._folder.incoming()
        try:
            await self._on_disk(incoming.begin)
            yield incoming
        finally:
            await self._on_disk(incoming.discard)

    async def _holds(self, held: HeldFile, sha256: str) -> bool:
        """Whether the file is there with this content; it is held then."""
        if not await self._on_disk(held.acquire):
            return False
        digest = hashlib.sha256()
        while chunk := await self._on_disk(held.read, CHUNK_BYTES):
            await in_thread(digest.update, chunk)
        return digest.hexdigest() == sha256

    async def _receive(
        self, source: ArtifactSource, incoming: IncomingFile, on_progress: Progress | None
    ) -> tuple[str, int]:
        """Fetch a file; its digest and its size."""
        digest = hashlib.sha256()
        size_bytes = 0
        async with AsyncExitStack() as stack:
            async with self._in_time(f"{source.uri} did not begin"):
                stream = await stack.enter_async_context(source.open())
            chunks = await stack.enter_async_context(aclosing(stream.chunks))
            self._refuse_size(source, stream.total_bytes or 0)
            while True:
                async with self._in_time(f"{source.uri} stalls: not 1 MiB came"):
                    chunk = await anext(chunks, b"")
                if not chunk:
                    break
                if not size_bytes:
                    refuse_pickle_content(source.uri, chunk)
                size_bytes += len(chunk)
                self._refuse_size(source, size_bytes)
                await in_thread(digest.update, chunk)
                await self._on_disk(incoming.write, chunk)
                if on_progress is not None:
                    on_progress(size_bytes, stream.total_bytes)
        if stream.total_bytes not in (None, size_bytes):
            raise UnavailableError(f"{source.uri} ended after {size_bytes} of {stream.total_bytes} bytes")
        return digest.hexdigest(), size_bytes

    @asynccontextmanager
    async def _in_time(self, what: str) -> AsyncGenerator[None, None]:
        try:
            async with asyncio.timeout(self._stall_seconds):
                yield
        except TimeoutError:
            raise UnavailableError(f"{what} within {self._stall_seconds:g} s") from None

    def _refuse_size(self, source: ArtifactSource, size_bytes: int) -> None:
        if size_bytes > self._max_bytes:
            raise ArtifactError(
                f"{source.uri} has more than {self._max_bytes} bytes, the limit HEADRACE_ARTIFACT_MAX_BYTES"
            )

    async def _on_disk(self, function: Callable[P, Answer], *args: P.args, **kwargs: P.kwargs) -> Answer:
        try:
            return await in_thread(function, *args, **kwargs)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise ArtifactError(f"model files cannot be kept in {self._folder.path}: {reason}") from None
