"""Which versions the processes of this machine are loading, and which loads ended their process.

A load has a file while it runs, and its process holds a lock on the file. The kernel drops the lock when the process
ends, whatever ends it. So a file without a lock is a load that did not end: it ended its process, or it took longer
than its limit. Such a version is loaded last, by one process at a time, and less often after each attempt. A load that
succeeds deletes the files of its version.

A file is named `DIGEST.ATTEMPT.RANDOM`: the digest of the version's spec, and the attempt, counted from 1. Its
modification time is that of the attempt. The attempt is 0 while the model's file is downloaded: a process that ends
then says nothing about the version.
"""

import os
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from secrets import token_hex
from typing import BinaryIO

import orjson
import structlog

from schemas.backoff import backoff_seconds
from schemas.errors import LoadPostponedError, LoadTimeoutError
from schemas.models import ModelSpec, served_form
from schemas.wire import canonical
from streams.process.file_locks import folder_lock, is_locked, locked_file
from streams.serving.load_state import RETRY_SECONDS
from workers.artifacts.port import in_thread

log = structlog.get_logger()

FIRST_WAIT_SECONDS = 30.0
LONGEST_WAIT_SECONDS = 600.0
# A version that is not loaded any more leaves its files.
FORGET_SECONDS = 7 * 86_400.0
NOT_SERVING_YET_SECONDS = 1.0
_DOWNLOADS = 0

Begin = Callable[[], Awaitable[None]]
"""Awaited when all is here that a load needs: from then on the load may end the process."""


@dataclass(frozen=True, slots=True)
class UnfinishedLoads:
    """What the files say of one version.

    `attempts` counts the loads that did not end, `last_at` is the last one's Unix time in seconds, and `running` is
    true while a living process loads the version.
    """

    attempts: int = 0
    last_at: float = 0.0
    running: bool = False


def postponed(found: UnfinishedLoads, *, others_are_served: bool, now: float) -> LoadPostponedError | None:
    """PURE. Why a version must not be loaded now, if so; `now` is the Unix time in seconds.

    After one attempt it waits until the other versions are served, because the load may have been innocent. After more
    attempts it waits longer each time.
    """
    if not found.attempts:
        return None
    ended = (
        f"{found.attempts} load{'s' if found.attempts > 1 else ''} of it ended the process or took too long"
    )
    if not others_are_served:
        return LoadPostponedError(f"{ended}; it is loaded after the others", NOT_SERVING_YET_SECONDS)
    if found.running:
        return LoadPostponedError(f"{ended}; another process of this machine loads it now", RETRY_SECONDS)
    wait = 0.0
    if found.attempts > 1:
        wait = backoff_seconds(
            found.attempts - 1, first_seconds=FIRST_WAIT_SECONDS, longest_seconds=LONGEST_WAIT_SECONDS
        )
    # A clock that was set back must not make it wait longer.
    left = min(found.last_at + wait - now, wait)
    return LoadPostponedError(f"{ended}; it is tried again in {left:.0f} s", left) if left > 0 else None


class LoadJournal:
    """The files in `folder`, which the processes of a machine share.

    Loads go on without files where the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._works = True

    @asynccontextmanager
    async def attempt(
        self, model_name: str, spec: ModelSpec, *, others_are_served: bool
    ) -> AsyncGenerator[Begin, None]:
        """Record the load of a version while the block runs; raises LoadPostponedError when it must wait.

        The load counts as an attempt from when the block has awaited what this yields.
        """
        entry = _Entry(self._folder, model_name, spec)
        try:
            with self._reported():
                await in_thread(entry.create, others_are_served=others_are_served)

            async def begin() -> None:
                with self._reported():
                    await in_thread(entry.begin)

            yield begin
        except LoadTimeoutError:
            await in_thread(entry.keep)
            raise
        except BaseException:
            await in_thread(entry.delete)
            raise
        await in_thread(entry.forget_version)

    @contextmanager
    def _reported(self) -> Iterator[None]:
        """Log once that the folder cannot be written."""
        try:
            yield
        except OSError as error:
            if self._works:
                log.warning("loads are not recorded", folder=str(self._folder), reason=str(error))
            self._works = False


class _Entry:
    """The file of one load; its functions block. Only `create` and `begin` raise OSError."""

    def __init__(self, folder: Path, model_name: str, spec: ModelSpec) -> None:
        self._folder = folder
        self._digest = sha256(canonical([model_name, served_form(spec)])).hexdigest()[:32]
        self._note = orjson.dumps({"model_name": model_name, "version": spec.version, "pid": os.getpid()})
        self._path: Path | None = None
        self._file: BinaryIO | None = None

    def create(self, *, others_are_served: bool) -> None:
        """Create and lock the file; raises LoadPostponedError when the version must wait."""
        with folder_lock(self._folder):
            found = self._find()
            wait = postponed(found, others_are_served=others_are_served, now=time.time())
            if wait is not None:
                raise wait
            path = self._folder / f"{self._digest}.{_DOWNLOADS}.{token_hex(8)}"
            self._file = locked_file(path)
            self._path = path
            self._file.write(self._note)

    def begin(self) -> None:
        """Make the file that of an attempt."""
        if self._path is None:
            return
        with folder_lock(self._folder):
            attempt = self._find().attempts + 1
            self._path = self._path.rename(self._folder / f"{self._digest}.{attempt}.{token_hex(8)}")
            os.utime(self._path)

    def keep(self) -> None:
        """Leave the file as that of a load that did not end."""
        with suppress(OSError):
            if self._path is not None:
                os.utime(self._path)
        self._close()

    def delete(self) -> None:
        """Delete the file: the load ended, by an error or because it is wanted no more."""
        with suppress(OSError):
            if self._path is not None:
                self._path.unlink()
        self._close()

    def forget_version(self) -> None:
        """Delete the files of the version, those of running loads excepted: it can be loaded."""
        self.delete()
        with suppress(OSError), folder_lock(self._folder):
            for path in self._folder.glob(f"{self._digest}.*"):
                if not is_locked(path):
                    path.unlink()

    def _find(self) -> UnfinishedLoads:
        attempts, last_at, running = 0, 0.0, False
        for path in self._folder.glob("*.*.*"):
            digest, attempt, _ = path.name.split(".", 2)
            # A running load deletes its file without the folder's lock.
            with suppress(FileNotFoundError):
                if is_locked(path):
                    running = running or digest == self._digest
                    continue
                modified_at = path.stat().st_mtime
                if int(attempt) == _DOWNLOADS or time.time() - modified_at > FORGET_SECONDS:
                    path.unlink()
                elif digest == self._digest:
                    attempts, last_at = max(attempts, int(attempt)), max(last_at, modified_at)
        return UnfinishedLoads(attempts, last_at, running)

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
