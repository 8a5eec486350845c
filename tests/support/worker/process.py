"""`headrace worker` as a process of its own: start it, read its log, kill or pause it."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Awaitable, Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any, Protocol

from schemas.events import JsonObject
from streams.config.settings import Settings
from tests.support.deadline import DEADLINE_SECONDS
from tests.support.stack.command import HEADRACE, environment
from tests.support.stack.fork_server import ForkedProcess


class WorkerProcess:
    """A worker with these roles and settings; `close` ends it, whatever state it is in.

    With several roles or `processes` it is a supervisor, whose processes write to the same log. The log is read by a
    thread, so that it never waits for its reader.
    """

    def __init__(
        self,
        settings: Settings,
        roles: str = "predict",
        processes: int = 1,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._process, self._stderr = _start(settings, roles, processes, env or {})
        self._ready_event = "worker ready" if processes == 1 and "," not in roles else "all processes ready"
        self._lines: list[str] = []
        self._at_end = False
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def log(self) -> str:
        """All that it has written so far."""
        with self._news:
            return "".join(self._lines)

    async def ready(self) -> None:
        """Wait until it serves; its partitions are assigned a moment later."""
        await self.logged(self._ready_event)

    async def logged(self, event: str, *, times: int = 1) -> JsonObject:
        """Wait until it has logged an event `times` times; return the line of the last one."""
        return await asyncio.to_thread(self._wait_for, event, times)

    def logged_again(self, event: str) -> Awaitable[JsonObject]:
        """Wait until it has logged an event once more than it has by this call."""
        return self.logged(event, times=self.count(event) + 1)

    def count(self, event: str) -> int:
        """How often it has logged an event so far."""
        return len(self.lines_of(event))

    def lines_of(self, event: str) -> list[JsonObject]:
        """The lines with an event that it has logged so far."""
        with self._news:
            return [line for line in map(_parsed, self._lines) if line.get("event") == event]

    async def ended(self) -> int:
        """Wait for its end; the exit code, negative for a signal."""
        try:
            code = await asyncio.to_thread(self._process.wait, DEADLINE_SECONDS)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the worker still runs after {DEADLINE_SECONDS:g} s:\n{self.log}") from None
        await asyncio.to_thread(self._reader.join, DEADLINE_SECONDS)
        return code

    async def exited(self) -> None:
        """Wait for its end, however long it runs."""
        await asyncio.to_thread(self._reader.join)

    def terminate(self) -> None:
        self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it with SIGKILL, as a crash of its machine would."""
        self._process.kill()

    def pause(self) -> None:
        """Stop it with SIGSTOP; it keeps its connections and partitions."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        self._process.kill()
        self._process.wait(DEADLINE_SECONDS)
        self._reader.join()
        self._stderr.close()

    def _read(self) -> None:
        for line in self._stderr:
            with self._news:
                self._lines.append(line.decode(errors="replace"))
                self._news.notify_all()
        with self._news:
            self._at_end = True
            self._news.notify_all()

    def _wait_for(self, event: str, times: int) -> JsonObject:
        def found() -> list[JsonObject]:
            return [line for line in map(_parsed, self._lines) if line.get("event") == event]

        with self._news:
            self._news.wait_for(lambda: self._at_end or len(found()) >= times, DEADLINE_SECONDS)
            lines = found()
            if len(lines) >= times:
                return lines[times - 1]
            state = "ended" if self._at_end else f"ran for {DEADLINE_SECONDS:g} s"
            written = "".join(self._lines)
        raise AssertionError(f"the worker {state} and has not logged {event!r} {times} times:\n{written}")


def _start(
    settings: Settings, roles: str, processes: int, env: Mapping[str, str]
) -> tuple[ForkedProcess | subprocess.Popen[bytes], IO[bytes]]:
    """Start it; its log can be read from the file."""
    arguments = ["worker", "--roles", roles, "--processes", str(processes)]
    read, write = os.pipe()
    with open(os.devnull, "r+b", buffering=0) as nothing, open(write, "wb", buffering=0) as log:  # noqa: PTH123 - a descriptor has no path
        if processes == 1:
            started: ForkedProcess | subprocess.Popen[bytes] = ForkedProcess(
                arguments,
                env={**environment(settings), **env},
                stdin=nothing.fileno(),
                stdout=nothing.fileno(),
                stderr=log.fileno(),
            )
        else:
            assert not env
            # A supervisor's workers are processes of the installed command in any case.
            started = subprocess.Popen(
                [HEADRACE, *arguments], stdin=nothing, stdout=nothing, stderr=log, env=environment(settings)
            )
    return started, open(read, "rb")  # noqa: PTH123 - a descriptor has no path; it is closed with the process


class StartWorker(Protocol):
    """The fixture `start_worker`."""

    def __call__(
        self,
        settings: Settings,
        roles: str = "predict",
        processes: int = 1,
        env: Mapping[str, str] | None = None,
    ) -> WorkerProcess: ...


@contextmanager
def worker_processes() -> Iterator[StartWorker]:
    """What starts workers that end with the block; their logs are printed then, for a test that fails."""
    started: list[WorkerProcess] = []

    def start(
        settings: Settings,
        roles: str = "predict",
        processes: int = 1,
        env: Mapping[str, str] | None = None,
    ) -> WorkerProcess:
        started.append(WorkerProcess(settings, roles, processes, env))
        return started[-1]

    try:
        yield start
    finally:
        for worker in started:
            worker.close()
            sys.stdout.write(f"--- log of a worker\n{worker.log}")


def _parsed(line: str) -> JsonObject:
    try:
        document: Any = json.loads(line)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}
