"""Running `headrace` as its users do: the installed command, as a process of its own."""

import asyncio
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from streams.config.settings import Settings
from streams.config.sources import VARIABLES
from tests.support.deadline import deadline

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
    """Run one command to its end; one that does not end by the deadline is killed and fails the test."""
    process = await asyncio.create_subprocess_exec(
        HEADRACE,
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(settings),
        cwd=cwd,
    )
    try:
        async with deadline(f"the end of headrace {arguments[0]}"):
            stdout, stderr = await process.communicate(stdin)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return Ended(process.returncode or 0, stdout.decode(), stderr.decode())
