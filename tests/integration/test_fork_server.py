"""tests/support/stack/fork_server.py: its processes are like those of the installed command."""

import asyncio
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.deadline import DEADLINE_SECONDS, deadline
from tests.support.stack.command import environment, headrace
from tests.support.stack.fork_server import ForkedProcess

PACKAGES = ("schemas", "registry", "workers", "streams")


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    """A file that a command waits to read."""
    path = tmp_path / "version.json"
    os.mkfifo(path)
    return path


def check(fifo: Path) -> ForkedProcess:
    with Path(os.devnull).open("r+b", buffering=0) as nothing:
        return ForkedProcess(
            ["check", str(fifo)],
            env=environment(),
            stdin=nothing.fileno(),
            stdout=nothing.fileno(),
            stderr=nothing.fileno(),
        )


async def opened(fifo: Path) -> int:
    """The writing end, once a command has opened the file."""
    return await asyncio.to_thread(os.open, fifo, os.O_WRONLY)


def until_no_reader(writing: int) -> None:
    poll = select.poll()
    poll.register(writing, 0)
    assert poll.poll(DEADLINE_SECONDS * 1000), "a command still reads the file"
    os.close(writing)


async def test_a_cancelled_command_is_killed(fifo: Path) -> None:
    """Its process has ended when the cancelled call returns."""
    running = asyncio.create_task(headrace("check", str(fifo)))
    async with deadline("a command that reads the file"):
        writing = await opened(fifo)
    running.cancel()
    async with deadline("the end of the cancelled call"):
        with pytest.raises(asyncio.CancelledError):
            await running
    until_no_reader(writing)


async def test_a_process_that_nobody_waits_for_is_reported(fifo: Path) -> None:
    """Its file descriptor is closed."""
    process = check(fifo)
    async with deadline("a command that reads the file"):
        writing = await opened(fifo)
    pid, status = process.pid, process._status
    with pytest.warns(ResourceWarning, match=f"process {pid} was not waited for"):
        del process
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(status)
    os.kill(pid, signal.SIGKILL)
    until_no_reader(writing)


async def test_the_default_of_signals_is_restored(fifo: Path) -> None:
    """SIGINT, which the server ignores, ends a command."""
    process = check(fifo)
    async with deadline("a command that reads the file"):
        writing = await opened(fifo)
    process.send_signal(signal.SIGINT)
    assert await asyncio.to_thread(process.wait, DEADLINE_SECONDS) != 0
    until_no_reader(writing)


def test_variables_that_imports_set_are_kept() -> None:
    """`workers` sets ORT_DISABLE_TELEMETRY at import, which a fork does not repeat; the caller's value wins."""
    program = (
        "import os, sys; from tests.support.stack.fork_server import import_all, set_environment\n"
        "added = import_all()\n"
        "for given in {}, {'ORT_DISABLE_TELEMETRY': '0'}:\n"
        "    set_environment(given, added); print(os.environ['ORT_DISABLE_TELEMETRY'])"
    )
    env = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    single = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    printed = subprocess.run(
        [sys.executable, "-c", program], env=env | single, check=True, capture_output=True, text=True
    )
    assert printed.stdout.split() == ["1", "0"]


def test_each_module_can_be_imported_first() -> None:
    """The server's processes import nothing, so that only this test sees a cycle of imports."""
    ended = subprocess.run(
        [sys.executable, "-m", "tests.support.stack.fresh_imports", *PACKAGES],
        cwd=Path(__file__).parents[2],
        check=True,
        capture_output=True,
        text=True,
    )
    assert ended.stdout.split() == [], ended.stderr
