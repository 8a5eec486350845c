"""The processes around a rollback: workers, each with its log, and the traffic."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

import orjson

from deploy.local.process import ChildProcess
from schemas.events import JsonObject
from streams.config.settings import ENV_PREFIX, Settings
from tests.support.stack.command import HEADRACE, environment

from .answers import WrongAnswerError
from .rollback_traffic import Order

_LOG_SECONDS = 60.0
_LOG_POLL_SECONDS = 0.02
_STOP_SECONDS = 15.0
_WARM_SECONDS = 60.0
_ACCOUNT_SECONDS = 60.0


class WorkerProcess:
    """`headrace worker` with one role; it ends by `end` or `kill`, and at the latest with this process."""

    def __init__(self, name: str, role: str, settings: Settings, folder: Path) -> None:
        self.name = name
        self._log = folder / f"{name}.log"
        own = environment(settings.model_copy(update={"worker_name": name}))
        variables = [f"{key}={value}" for key, value in own.items() if key.startswith(ENV_PREFIX)]
        command = ["env", *variables, HEADRACE, "worker", "--roles", role]
        self._child = ChildProcess(name, command, log=self._log, folder=folder)
        self._gone = False

    def log(self) -> list[JsonObject]:
        """The lines that it has written so far."""
        whole, _, _ = self._log.read_bytes().rpartition(b"\n")
        return [orjson.loads(line) for line in whole.splitlines() if line.startswith(b"{")]

    async def logged(self, event: str, *, times: int = 1) -> None:
        """Wait until it has logged an event `times` times."""
        try:
            async with asyncio.timeout(_LOG_SECONDS):
                while True:
                    if self.count(event) >= times:
                        return
                    await asyncio.sleep(_LOG_POLL_SECONDS)
        except TimeoutError:
            end = self._log.read_text()[-2000:]
            raise WrongAnswerError(f"{self.name} has not logged {event!r} in time:\n{end}") from None

    def count(self, event: str, **fields: str) -> int:
        """How often it has logged an event."""
        wanted = {"event": event, **fields}
        return sum(wanted.items() <= line.items() for line in self.log())

    def swaps(self) -> dict[int, float]:
        """When it had swapped its table, by epoch, in Unix milliseconds."""
        return {
            line["epoch"]: 1000 * datetime.fromisoformat(line["timestamp"]).timestamp()
            for line in self.log()
            if line["event"] == "serving table swapped"
        }

    def pause(self) -> None:
        """Let it run no more; it keeps its connections."""
        self._child.request_end(signal.SIGSTOP)

    def kill(self) -> None:
        """End it as a crash of its machine would. Idempotent."""
        if not self._gone:
            self._gone = True
            self._child.kill()
            self._child.close()

    def end(self) -> None:
        """End it in order, or by force when that takes too long."""
        self._child.request_end(signal.SIGTERM)
        self._child.wait(_STOP_SECONDS)
        self.kill()


class TrafficProcess:
    """Requests at a steady rate, sent and counted by a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def warm(self) -> None:
        """Wait until all inputs come from the cache."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(b"warm\n")
        try:
            async with asyncio.timeout(_WARM_SECONDS):
                if not await self._process.stdout.readline():
                    raise WrongAnswerError("the traffic has failed")
        except TimeoutError:
            raise WrongAnswerError("the cache does not get warm") from None

    async def finish(self) -> None:
        """Send no more, and wait until each request is accounted for."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        async with asyncio.timeout(_ACCOUNT_SECONDS):
            if await self._process.wait() != 0:
                raise WrongAnswerError("the traffic has failed")


@asynccontextmanager
async def traffic(order: Order) -> AsyncIterator[TrafficProcess]:
    """Send as ordered; the process ends with the block, or when this one ends."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.bench.rollback_traffic", json.dumps(asdict(order))),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield TrafficProcess(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
