"""Ends a process that no longer gets on, so that its partitions go to one that does.

aiokafka's fetch path does not see every error of the coordinator, and an event loop can hang: in
both cases the process looks alive and answers nothing. The watchdog runs on a thread, so that it
also sees a loop that hangs.
"""

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

log = structlog.get_logger()

EXIT_STALLED = 70
"""EX_SOFTWARE of sysexits.h."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What the watchdog looks at: `waiting` is work to do, `done` rises whenever some is done."""

    waiting: bool
    done: int


@dataclass(frozen=True, slots=True)
class Watch:
    """The last progress seen, and when (monotonic seconds) something last moved."""

    done: int
    moved_at: float


def look(watch: Watch, progress: Progress, now: float) -> Watch:
    """PURE. Nothing to do counts as getting on."""
    if progress.done != watch.done or not progress.waiting:
        return Watch(progress.done, now)
    return watch


class Watchdog:
    """Ends the process when work waited for `patience_seconds` and none was done."""

    def __init__(
        self,
        progress: Callable[[], Progress],
        patience_seconds: Callable[[], float],
        *,
        period_seconds: float = 1.0,
        end_process: Callable[[int], None] = os._exit,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._progress = progress
        self._patience_seconds = patience_seconds
        self._period_seconds = period_seconds
        self._end_process = end_process
        self._clock = clock
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="headrace-watchdog", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()

    def _run(self) -> None:
        watch = Watch(done=-1, moved_at=self._clock())
        while not self._stopped.wait(self._period_seconds):
            try:
                progress = self._progress()
            except RuntimeError:
                # The loop changed a collection while it was read from here: it runs. Look again.
                continue
            watch = look(watch, progress, self._clock())
            waited = self._clock() - watch.moved_at
            if waited > self._patience_seconds():
                log.critical("no progress; the process ends", waited_seconds=round(waited, 1))
                self._end_process(EXIT_STALLED)
                return
