"""docs/deploy.md, followed word for word: every block of it that is to be typed, in its order."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.containers.composed import WORKERS, Composed
from tests.containers.docker import compose_command, run

ROOT = Path(__file__).parents[2]
DOC = ROOT / "docs" / "deploy.md"
ANSWER = "0.8175744414329529"
# An older Compose waits by itself for what others need, and knows no word for the rest.
OLDER_COMPOSE = """#!/bin/bash
[ "$1" = compose ] || exec {docker} "$@"
arguments=()
for argument in "${{@:2}}"; do [ "$argument" = --wait ] || arguments+=("$argument"); done
exec docker-compose "${{arguments[@]}}"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The files of the repository, as somebody has them who has just fetched it."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    copy = tmp_path / "headrace"
    for name in filter(None, listed.stdout.split("\0")):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, copy / name)
    return copy


@pytest.fixture
def system(folder: Path) -> Iterator[Composed]:
    """What is to be started, on ports of its own; it is taken away at the end."""
    system = Composed(folder / "models")
    try:
        yield system
    finally:
        system.remove()


def test_it_works_as_written(folder: Path, system: Composed) -> None:
    """From nothing to a prediction, the dashboards, and a copy of the registry."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", DOC.read_text(), re.MULTILINE | re.DOTALL)
    start, model, predict, dashboards, backup = blocks
    typed(start, folder, system)
    system.healthy(*WORKERS)
    typed(model, folder, system)
    assert typed(predict, folder, system).splitlines()[-1] == ANSWER
    assert f"`{ANSWER}`" in DOC.read_text()
    if "stand-in" in os.environ.get("PROMETHEUS_IMAGE", ""):
        # There is none for Grafana.
        dashboards = dashboards.rstrip() + " prometheus"
    typed(dashboards, folder, system)
    system.healthy("prometheus")
    typed(backup, folder, system)
    assert "fraud.onnx" in (folder / "headrace.sql").read_text()


def typed(block: str, folder: Path, system: Composed) -> str:
    """Run a block in that folder as it is written; what it printed."""
    commands = folder.parent / "commands"
    if compose_command() == ("docker-compose",) and not commands.exists():
        commands.mkdir()
        (commands / "docker").write_text(OLDER_COMPOSE.format(docker=shutil.which("docker")))
        (commands / "docker").chmod(0o755)
    environment = {**os.environ, **system.environment, "COMPOSE_PROJECT_NAME": system.project}
    # The folder that the text names.
    del environment["HEADRACE_MODELS"]
    return run(
        ["bash", "-euo", "pipefail", "-c", block],
        {**environment, "PATH": f"{commands}:{environment['PATH']}"},
        folder,
    )
