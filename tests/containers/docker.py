"""The engine's command line, and Compose of whichever generation is there."""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from tests.containers.images.engine import install

_COMMAND_SECONDS = 300.0


def docker(*arguments: str) -> str:
    """Run a command to its end; what it printed."""
    return run(["docker", *arguments])


def inspect(name: str) -> dict[str, Any]:
    """What the engine knows of a container or an image."""
    (found,) = json.loads(docker("inspect", name))
    document: dict[str, Any] = found
    return document


@cache
def compose_command() -> tuple[str, ...]:
    """The newer generation where the engine has it, else the older one, installed when it is not there."""
    newer = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
    if newer.returncode == 0:
        return ("docker", "compose")
    install({"docker-compose": "docker-compose"}, lambda _: None)
    return ("docker-compose",)


def run(
    command: Sequence[str], environment: Mapping[str, str] = os.environ, folder: Path | None = None
) -> str:
    ended = subprocess.run(
        list(command),
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=_COMMAND_SECONDS,
        check=False,
    )
    assert ended.returncode == 0, f"{command}: {ended.stdout[-2000:]}\n{ended.stderr[-4000:]}"
    return ended.stdout
