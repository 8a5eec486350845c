"""The demo as a user runs it: a process on its own stack, its last line, its end."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.deadline import DEADLINE_SECONDS

# One at a time: each has a whole stack and a worker.
pytestmark = [
    pytest.mark.xdist_group("demo"),
    pytest.mark.usefixtures("fast_java"),
]


class Demo:
    """A running demo, whose folder is below `folder`."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.folder = folder
        self.told: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "deploy.demo", "--rate", "200", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # Settings of another stack must not reach it.
            env={**os.environ, "TMPDIR": str(folder), "HEADRACE_KAFKA_BOOTSTRAP": "127.0.0.1:1"},
        )
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self._stdout, self._stderr = self.process.stdout, self.process.stderr

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Read standard error until a line matches; fail with all of it if the demo ends before."""
        for line in self._stderr:
            self.told.append(line)
            if found := re.search(pattern, line):
                return found
        pytest.fail(f"the demo ended before {pattern!r}:\n{''.join(self.told)}")

    def wait_for_end(self) -> tuple[int, str]:
        """The exit code and all of standard output."""
        self.told.extend(self._stderr)
        output = self._stdout.read()
        return self.process.wait(DEADLINE_SECONDS), output

    def close(self) -> None:
        self.process.kill()
        self.process.wait(DEADLINE_SECONDS)
        self._stdout.close()
        self._stderr.close()


@pytest.fixture
def start_demo(tmp_path: Path) -> Iterator[Callable[..., Demo]]:
    """Start the demo with its folder below the test's own; one that still runs at the end is killed."""
    started: list[Demo] = []

    def start(*arguments: str) -> Demo:
        started.append(Demo(tmp_path, *arguments))
        return started[-1]

    yield start
    for demo in started:
        demo.close()


def assert_nothing_lost(result: dict[str, Any]) -> None:
    assert list(result) == [
        *("sent", "answered", "lost", "errors", "cached", "by_version", "p50_ms", "p99_ms")
    ]
    assert result["answered"] == result["sent"] == sum(result["by_version"].values())
    assert (result["lost"], result["errors"]) == (0, 0)
    assert 0 < result["p50_ms"] <= result["p99_ms"]


def assert_nothing_left(folder: Path) -> None:
    assert list(folder.iterdir()) == []
    assert [
        process.info["cmdline"]
        for process in psutil.process_iter(["cmdline"])
        if any(str(folder) in argument for argument in process.info["cmdline"] or ())
    ] == []


def test_a_bounded_demo_ends_by_itself(start_demo: Callable[..., Demo], tmp_path: Path) -> None:
    """It prints what it trained, answers all requests from both versions, and leaves no files or processes."""
    demo = start_demo("--seconds", "3")
    demo.wait_for(r"v1: .*hit rate at 10: 56\.2%")
    assert float(demo.wait_for(r"v2: .*hit rate at 10: ([\d.]+)%")[1]) > 70
    exit_code, output = demo.wait_for_end()
    assert exit_code == 0, "".join(demo.told)
    result = json.loads(output)
    assert_nothing_lost(result)
    assert result["sent"] > 100
    assert result["by_version"]["v1"] > result["by_version"]["v2"] > 0
    assert_nothing_left(tmp_path)


def test_an_endless_demo_follows_the_operator_and_ends_by_ctrl_c(
    start_demo: Callable[..., Demo], tmp_path: Path
) -> None:
    """A promotion from another terminal takes effect in the running demo; Ctrl-C is an orderly end."""
    demo = start_demo()
    variable, env_file = demo.wait_for(r"export (HEADRACE_ENV_FILE)=(\S+)").groups()
    command = demo.wait_for(r"(\S+ promote \S+ v2)$")[1]
    demo.wait_for(r"^Replaying")
    subprocess.run(
        command.split(), env={**os.environ, variable: env_file}, check=True, stdout=subprocess.DEVNULL
    )
    # More than half of the requests; the canary had a tenth.
    demo.wait_for(r"v2: [1-9]\d\d/s")
    demo.process.send_signal(signal.SIGINT)
    exit_code, output = demo.wait_for_end()
    assert exit_code == 0, "".join(demo.told)
    result = json.loads(output)
    assert_nothing_lost(result)
    assert_nothing_left(tmp_path)


def test_interrupted_before_its_traffic_it_leaves_nothing(
    start_demo: Callable[..., Demo], tmp_path: Path
) -> None:
    """A SIGTERM while it is still starting ends all that was started, without a result."""
    demo = start_demo()
    demo.wait_for("starting a worker")
    demo.process.send_signal(signal.SIGTERM)
    assert demo.wait_for_end() == (130, "")
    assert_nothing_left(tmp_path)
