"""Ends a process without progress, so that Kafka assigns its partitions to another one.

aiokafka's fetcher misses some errors of the coordinator, and an event loop can hang: in both cases the process
looks alive and answers nothing. The watchdog runs on a thread, so that it also detects a loop that hangs.
`interpreter_timer.py` detects that no thread can run.
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
    """`waiting`: there is work to do; `done` increases whenever some work is done."""

    waiting: bool
    done: int


@dataclass(frozen=True, slots=True)
class Watch:
    """The last value of `done`, and the monotonic time in seconds at which it last changed or nothing waited."""

    done: int
    progress_at: float


def advance(watch: Watch, progress: Progress, now: float) -> Watch:
    """PURE. Restarts the clock when work was done, or when no work waits."""
    if progress.done != watch.done or not progress.waiting:
        return Watch(progress.done, now)
    return watch


class Watchdog:
    """Ends the process when work waited for `stall_seconds` and none was done."""

    def __init__(
        self,
        progress: Callable[[], Progress],
        stall_seconds: Callable[[], float],
        *,
        period_seconds: float = 1.0,
        end_process: Callable[[int], None] = os._exit,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._progress = progress
        self._stall_seconds = stall_seconds
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
        watch = Watch(done=-1, progress_at=self._clock())
        while not self._stopped.wait(self._period_seconds):
            try:
                progress = self._progress()
            except RuntimeError:
                # The loop changed a collection while this thread read it, so the loop runs: look again.
                continue
            watch = advance(watch, progress, self._clock())
            waited = self._clock() - watch.progress_at
            if waited > self._stall_seconds():
                log.critical("no progress; ending the process", waited_seconds=round(waited, 1))
                self._end_process(EXIT_STALLED)
                return
