"""Files of this machine: `file:///PATH`."""

import os
from collections.abc import AsyncGenerator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

from schemas.errors import ArtifactError
from workers.artifacts.port import CHUNK_BYTES, ArtifactStream, in_thread


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file of this machine."""

    path: Path

    @classmethod
    def of(cls, uri: str) -> "LocalFile":
        """The file of a URI `file:///PATH`; raises ArtifactError for other URIs and relative paths."""
        try:
            parts = urlsplit(uri)
            path = Path(unquote(parts.path))
        except ValueError:
            raise ArtifactError("artifact_uri is not a URI; write file:///PATH") from None
        if parts.netloc not in ("", "localhost") or not path.is_absolute() or "\0" in str(path):
            raise ArtifactError(
                f"artifact_uri {uri} is not an absolute path on this machine; write file:///PATH"
            )
        return cls(path)

    @property
    def uri(self) -> str:
        return self.path.as_uri()

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[ArtifactStream, None]:
        # Closes the file also when the caller is cancelled while the thread opens it.
        opened = ExitStack()
        try:
            file, total_bytes = await in_thread(self._open, opened)
            yield ArtifactStream(total_bytes, _read_chunks(file, self.uri))
        finally:
            await in_thread(opened.close)

    def _open(self, opened: ExitStack) -> tuple[BinaryIO, int]:
        try:
            # Opening a pipe would block.
            if not self.path.is_file():
                raise ArtifactError(f"{self.uri} is not a file on this machine")
            file = opened.enter_context(self.path.open("rb", buffering=0))
            return file, os.fstat(file.fileno()).st_size
        except OSError as error:
            raise ArtifactError(f"{self.uri} cannot be read: {error.strerror}") from None


async def _read_chunks(file: BinaryIO, uri: str) -> AsyncGenerator[bytes, None]:
    try:
        while chunk := await in_thread(file.read, CHUNK_BYTES):
            yield chunk
    except OSError as error:
        raise ArtifactError(f"{uri} cannot be read: {error.strerror}") from None
