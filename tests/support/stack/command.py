"""Running `headrace` as a process of its own."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import orjson

from streams.config.settings import Settings
from streams.config.sources import VARIABLES
from tests.support.deadline import DEADLINE_SECONDS
from tests.support.stack.fork_server import ForkedProcess

HEADRACE = str(Path(sys.executable).with_name("headrace"))


@dataclass(frozen=True)
class Ended:
    """What a command left behind."""

    code: int
    stdout: str
    stderr: str

    @property
    def documents(self) -> list[Any]:
        """Each line of standard output, read as JSON."""
        return [orjson.loads(line) for line in self.stdout.splitlines()]


def environment(settings: Settings | None = None) -> dict[str, str]:
    """The environment of this process without its settings, and with those given that are no defaults."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
    if settings is None:
        return plain
    dumped = {
        name: value.get_secret_value() if hasattr(value, "get_secret_value") else value
        for name, value in settings.model_dump(exclude_defaults=True).items()
    }
    return plain | {variable: str(dumped[name]) for variable, name in VARIABLES.items() if name in dumped}


async def headrace(
    *arguments: str, settings: Settings | None = None, stdin: bytes = b"", cwd: Path | None = None
) -> Ended:
    """Run one command to its end.

    A command that does not end by the deadline is killed and fails the test; a cancelled call kills its command.
    """
    started: Future[ForkedProcess] = Future()
    running = asyncio.create_task(
        asyncio.to_thread(_run, arguments, environment(settings), stdin, cwd, started)
    )
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        # A thread cannot be cancelled: it ends with its process.
        started.add_done_callback(lambda done: done.result().kill())
        await asyncio.gather(running, return_exceptions=True)
        raise


def _run(
    arguments: Sequence[str],
    env: Mapping[str, str],
    stdin: bytes,
    cwd: Path | None,
    started: Future[ForkedProcess],
) -> Ended:
    with TemporaryFile() as given, TemporaryFile() as out, TemporaryFile() as err:
        given.write(stdin)
        given.seek(0)
        process = ForkedProcess(
            arguments, env=env, stdin=given.fileno(), stdout=out.fileno(), stderr=err.fileno(), cwd=cwd
        )
        started.set_result(process)
        try:
            code = process.wait(DEADLINE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(DEADLINE_SECONDS)
            raise AssertionError(f"headrace {arguments[0]} still runs after {DEADLINE_SECONDS:g} s") from None
        out.seek(0)
        err.seek(0)
        return Ended(code, out.read().decode(), err.read().decode())
