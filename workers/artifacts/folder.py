"""The folder with the model files that were fetched: `SHA256/model.onnx`, each alone in a folder of its own.

Several processes may share it. One at a time changes what is there, by the lock on `.lock`. Whoever
uses a file holds a shared lock on it: what makes room takes no file that somebody holds. A file's
time of change is the time of its last use: the longest unused go first.

All of this blocks; `workers/artifacts/store.py` calls it in threads. Everything raises OSError when the
folder does not let it do its work.
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
# A file that is being fetched grows each minute: one that has not for so long was left by a process that died.
_ABANDONED_SECONDS = 3600.0


class ArtifactFolder:
    """The folder at `path`, with at most `max_bytes` of files that are not in use."""

    def __init__(self, path: Path, *, max_bytes: int) -> None:
        self.path = path
        self._max_bytes = max_bytes

    def place(self, sha256: str) -> "HeldFile":
        """Where the file with this digest is, or would be."""
        return HeldFile(self, self.path / sha256 / _FILE_NAME)

    def incoming(self) -> "IncomingFile":
        """What a file is fetched into."""
        return IncomingFile(self)

    def make_room(self, *, keep: Path) -> None:
        """Delete the longest unused files beyond the limit, but none in use and not the one at `keep`."""
        with self.alone():
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
    def alone(self) -> Iterator[None]:
        """Nobody else changes what is there; makes the folder."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self.path / LOCK_NAME).open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _files(self) -> Iterator[tuple[int, int, Path]]:
        """When each was last used, in nanoseconds, its size, and where it is."""
        for path in self.path.glob(f"*/{_FILE_NAME}"):
            # Somebody may tidy up by hand meanwhile.
            with suppress(FileNotFoundError):
                status = path.stat()
                yield status.st_mtime_ns, status.st_size, path


class HeldFile:
    """The place of a file, which stays there between `acquire` or `put` and `release`."""

    def __init__(self, folder: ArtifactFolder, path: Path) -> None:
        self.path = path
        self._folder = folder
        self._file: BinaryIO | None = None

    def acquire(self) -> bool:
        """Whether there is a file, which now counts as used."""
        with self._folder.alone():
            return self._open()

    def read(self, size_bytes: int) -> bytes:
        """The next bytes of the file, none at its end."""
        assert self._file is not None
        return self._file.read(size_bytes)

    def put(self, path: Path) -> None:
        """Move a file here and hold it, instead of what was acquired.

        A file that another process has put here since is held instead, as others may do already.
        """
        with self._folder.alone():
            if self._file is not None or not self._open():
                self.release()
                self.path.parent.mkdir(exist_ok=True)
                path.replace(self.path)
                self._open()

    def release(self) -> None:
        """Let go of it. Idempotent."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> bool:
        try:
            self._file = self.path.open("rb", buffering=0)
        except FileNotFoundError:
            return False
        fcntl.flock(self._file, fcntl.LOCK_SH)
        # Another user's file cannot be touched, and serves all the same.
        with suppress(OSError):
            os.utime(self.path)
        return True


class IncomingFile:
    """A file that is being fetched into the folder; whoever makes it ends by `discard`, whatever happened."""

    def __init__(self, folder: ArtifactFolder) -> None:
        self._folder = folder
        self._path: Path | None = None
        self._file: BinaryIO | None = None

    def begin(self) -> None:
        """Make it, empty."""
        self._folder.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=self._folder.path, prefix=_INCOMING)
        self._path = Path(name)
        self._file = os.fdopen(descriptor, "wb")

    def write(self, chunk: bytes) -> None:
        assert self._file is not None
        self._file.write(chunk)

    def keep(self, held: HeldFile) -> None:
        """Give the file, which is whole now, its place, and hold it there."""
        assert self._file is not None
        assert self._path is not None
        self._file.close()
        held.put(self._path)

    def discard(self) -> None:
        """Delete what was not kept. Idempotent."""
        if self._file is not None:
            # What its buffer holds is written now; on a full disk it cannot be, and need not.
            with suppress(OSError):
                self._file.close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def _delete_unused(path: Path) -> bool:
    """Whether the file is gone now."""
    try:
        with path.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
    except OSError:
        # In use, or another user's.
        return False
    with suppress(OSError):
        path.parent.rmdir()
    return True
