"""The artifact store: downloads model files, verifies their SHA-256, and keeps the verified copies.

A file is streamed into a folder named by its SHA-256 and hashed on the way; the loader reads that copy.
The folder has no other file, so a model with external data does not load: the registered digest covers
the whole version. A model is one file.

Only the loader of the declared framework reads the file. Nothing is unpickled or imported.
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
from workers.artifacts.folder import ArtifactFolder, ArtifactSlot, IncomingFile
from workers.artifacts.pickles import refuse_pickle_content, refuse_pickle_name
from workers.artifacts.port import CHUNK_BYTES, ArtifactSource, in_thread

log = structlog.get_logger()

P = ParamSpec("P")
Answer = TypeVar("Answer")

Progress = Callable[[int, int | None], None]
"""Called after each chunk with the bytes received, and the total where the source reports it."""

STALL_SECONDS = 60.0
TIMEOUT_SECONDS = 3600.0
"""The default limit of a download."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """A stored file, its digest and its size."""

    path: Path
    sha256: str
    size_bytes: int


class ArtifactStore:
    """Downloads model files into `folder`; `source_of` maps a URI to its source.

    Files of more than `max_bytes` are refused. Least recently used files are evicted when all files
    exceed `cache_bytes`. A download fails when its source does not begin, or delivers less than a chunk
    (1 MiB), within `stall_seconds`, or when it does not end within `timeout_seconds`.
    """

    def __init__(
        self,
        folder: Path,
        source_of: Callable[[str], ArtifactSource],
        *,
        max_bytes: int,
        cache_bytes: int,
        stall_seconds: float = STALL_SECONDS,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        self._folder = ArtifactFolder(folder, max_bytes=cache_bytes)
        self._source_of = source_of
        self._max_bytes = max_bytes
        self._stall_seconds = stall_seconds
        self._timeout_seconds = timeout_seconds

    @asynccontextmanager
    async def fetched(
        self, uri: str, sha256: str, on_progress: Progress | None = None, *, asks_source: bool = False
    ) -> AsyncIterator[Path]:
        """The path of a local copy of `uri` whose content has this SHA-256 (lower-case hex).

        With `asks_source` the file is downloaded also when a copy is stored already: the stored one says nothing about
        what other machines will find at the URI.
        The copy is locked against eviction inside the `async with`. Raises ArtifactError when the file
        cannot be read or stored, is too large, is a pickle or has another digest, and UnavailableError
        when its source does not answer. A download that fails or is cancelled leaves no file.
        """
        source = self._source(uri)
        async with self._slot(sha256) as slot:
            # A stored file may have been changed since: its digest is verified at each use.
            is_stored = await self._acquire(slot, sha256)
            if asks_source or not is_stored:
                async with self._incoming() as incoming:
                    actual, _ = await self._receive(source, incoming, on_progress)
                    if actual != sha256:
                        raise ArtifactError(
                            f"{source.uri} has SHA-256 {actual}, but {sha256} is registered; restore the "
                            "registered file, or register the digest of this one"
                        )
                    await self._on_disk(incoming.commit, slot)
            yield slot.path

    @asynccontextmanager
    async def received(self, uri: str, on_progress: Progress | None = None) -> AsyncIterator[Artifact]:
        """A local copy of the current content of `uri`, with its digest. Raises as `fetched`."""
        source = self._source(uri)
        async with self._incoming() as incoming:
            sha256, size_bytes = await self._receive(source, incoming, on_progress)
            async with self._slot(sha256) as slot:
                await self._on_disk(incoming.commit, slot)
                yield Artifact(slot.path, sha256, size_bytes)

    def _source(self, uri: str) -> ArtifactSource:
        source = self._source_of(uri)
        refuse_pickle_name(source.uri)
        return source

    @asynccontextmanager
    async def _slot(self, sha256: str) -> AsyncGenerator[ArtifactSlot, None]:
        slot = self._folder.slot(sha256)
        try:
            yield slot
        finally:
            await in_thread(slot.release)
            try:
                await in_thread(self._folder.evict, keep=slot.path)
            except OSError as error:
                log.warning("artifacts not evicted", folder=str(self._folder.path), reason=str(error))

    @asynccontextmanager
    async def _incoming(self) -> AsyncGenerator[IncomingFile, None]:
        incoming = self._folder.incoming()
        try:
            await self._on_disk(incoming.begin)
            yield incoming
        finally:
            await self._on_disk(incoming.discard)

    async def _acquire(self, slot: ArtifactSlot, sha256: str) -> bool:
        """Lock the stored file; False when there is none or its content has another digest."""
        if not await self._on_disk(slot.acquire):
            return False
        digest = hashlib.sha256()
        while chunk := await self._on_disk(slot.read, CHUNK_BYTES):
            await in_thread(digest.update, chunk)
        return digest.hexdigest() == sha256

    async def _receive(
        self, source: ArtifactSource, incoming: IncomingFile, on_progress: Progress | None
    ) -> tuple[str, int]:
        """Download a file; returns its digest and its size in bytes."""
        digest = hashlib.sha256()
        size_bytes = 0
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(
                self._in_time(f"{source.uri} was not received", self._timeout_seconds)
            )
            async with self._in_time(f"{source.uri} did not respond", self._stall_seconds):
                stream = await stack.enter_async_context(source.open())
            chunks = await stack.enter_async_context(aclosing(stream.chunks))
            self._refuse_size(source, stream.total_bytes or 0)
            while True:
                stalled = f"{source.uri} stalled: less than 1 MiB arrived"
                async with self._in_time(stalled, self._stall_seconds):
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
    async def _in_time(self, what: str, seconds: float) -> AsyncGenerator[None, None]:
        try:
            async with asyncio.timeout(seconds):
                yield
        except TimeoutError:
            raise UnavailableError(f"{what} within {seconds:g} s") from None

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
            raise ArtifactError(f"model files cannot be stored in {self._folder.path}: {reason}") from None
