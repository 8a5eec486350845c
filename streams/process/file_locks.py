"""Locks on files, by which the processes of a machine know whether the process that wrote a file still runs.

The kernel drops a lock when its process ends, whatever ends it. The functions block, and raise OSError.
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

_LOCK = ".lock"


def locked_file(path: Path) -> BinaryIO:
    """Create a file and lock it until it is closed; the caller holds the lock of its folder."""
    file = path.open("xb", buffering=0)
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return file


def claimed_file(path: Path) -> BinaryIO | None:
    """Open a file and lock it until it is closed; None while a living process holds its lock."""
    file = path.open("rb", buffering=0)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def is_locked(path: Path) -> bool:
    """Whether a living process holds the lock of a file."""
    file = claimed_file(path)
    if file is not None:
        file.close()
    return file is None


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, which is created where it is missing; files are created and looked for under it."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (folder / _LOCK).open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
