"""The artifact folder on disk: one model file each in `SHA256/model.onnx`, evicted least recently used first.

Several processes may share the folder. A process holds the exclusive lock on `.lock` to change it, and a
shared lock on each file that it uses; eviction skips locked files. A file's modification time is the time
of its last use.

Every function blocks, so `workers/artifacts/store.py` calls them in threads. They raise OSError when the
file system refuses an operation.
"""

import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

LOCK_NAME = ".lock"
_FILE_NAME = "model.onnx"
_INCOMING = "incoming-"
# A download writes at least once a minute: an incoming file that is older belongs to a dead process.
_ABANDONED_SECONDS = 3600.0


class ArtifactFolder:
    """The folder at `path`; eviction keeps it within `max_bytes`, files in use excepted."""

    def __init__(self, path: Path, *, max_bytes: int) -> None:
        self.path = path
        self._max_bytes = max_bytes

    def slot(self, sha256: str) -> "ArtifactSlot":
        """The slot of the file with this digest, which may be empty."""
        return ArtifactSlot(self, self.path / sha256 / _FILE_NAME)

    def incoming(self) -> "IncomingFile":
        """A new file to download into."""
        return IncomingFile(self)

    def evict(self, *, keep: Path) -> None:
        """Delete least recently used files beyond the limit, except locked files and the one at `keep`.

        Incoming files of dead processes are deleted too.
        """
        with self.exclusive_lock():
            files = sorted(self._files())
            total_bytes = sum(size for _, size, _ in files)
            for _, size, path in files:
                if total_bytes <= self._max_bytes:
                    break
                if path != keep and _delete_unused(path):
                    total_bytes -= size
            for path in self.path.glob(f"{_INCOMING}*"):
                with suppress(OSError):
                    if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                        path.unlink()

    @contextmanager
    def exclusive_lock(self) -> Iterator[None]:
        """Hold the folder's lock, which keeps other processes from changing it. Creates the folder."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self.path / LOCK_NAME).open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _files(self) -> Iterator[tuple[int, int, Path]]:
        """The last use in nanoseconds since 1970, the size in bytes, and the path of each file."""
        for path in self.path.glob(f"*/{_FILE_NAME}"):
            # An operator may delete files by hand meanwhile.
            with suppress(FileNotFoundError):
                status = path.stat()
                yield status.st_mtime_ns, status.st_size, path


class ArtifactSlot:
    """The path of one artifact; its file is locked between `acquire` or `store` and `release`."""

    def __init__(self, folder: ArtifactFolder, path: Path) -> None:
        self.path = path
        self._folder = folder
        self._file: BinaryIO | None = None

    def acquire(self) -> bool:
        """Lock the file and update its last use; False when the slot is empty."""
        with self._folder.exclusive_lock():
            return self._open()

    def read(self, size_bytes: int) -> bytes:
        """The next bytes of the acquired file; empty at its end."""
        assert self._file is not None
        return self._file.read(size_bytes)

    def store(self, path: Path) -> None:
        """Move the file at `path` into the slot and lock it; an acquired file is replaced.

        If another process stored a file here since, that file is locked instead: others may use it already.
        """
        with self._folder.exclusive_lock():
            if self._file is not None or not self._open():
                self.release()
                self.path.parent.mkdir(exist_ok=True)
                path.replace(self.path)
                self._open()

    def release(self) -> None:
        """Unlock the file. Idempotent."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> bool:
        try:
            self._file = self.path.open("rb", buffering=0)
        except FileNotFoundError:
            return False
        fcntl.flock(self._file, fcntl.LOCK_SH)
        # The time of another user's file cannot be set; the file is usable.
        with suppress(OSError):
            os.utime(self.path)
        return True


class IncomingFile:
    """A file during its download; its creator always calls `discard` in the end."""

    def __init__(self, folder: ArtifactFolder) -> None:
        self._folder = folder
        self._path: Path | None = None
        self._file: BinaryIO | None = None

    def begin(self) -> None:
        """Create the file, empty."""
        self._folder.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=self._folder.path, prefix=_INCOMING)
        self._path = Path(name)
        self._file = os.fdopen(descriptor, "wb")

    def write(self, chunk: bytes) -> None:
        assert self._file is not None
        self._file.write(chunk)

    def commit(self, slot: ArtifactSlot) -> None:
        """Move the complete file into its slot and lock it there."""
        assert self._file is not None
        assert self._path is not None
        self._file.close()
        slot.store(self._path)

    def discard(self) -> None:
        """Delete the file unless it was committed. Idempotent."""
        if self._file is not None:
            # Closing flushes the buffer, which fails on a full disk.
            with suppress(OSError):
                self._file.close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def _delete_unused(path: Path) -> bool:
    """Delete the file; False when it is in use or cannot be deleted."""
    try:
        with path.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
    except OSError:
        # Locked by a process, or of another user.
        return False
    with suppress(OSError):
        path.parent.rmdir()
    return True
