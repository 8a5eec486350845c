"""streams/worker.py without Kafka: the process ends when its interpreter is held."""

import subprocess
import sys

from streams.process.watchdog import EXIT_STALLED
from tests.support.deadline import DEADLINE_SECONDS

HELD = """
import asyncio, ctypes
from streams.config.settings import Settings
from streams.worker import Worker
async def main():
    # The first time that the worker waits for anything.
    asyncio.get_running_loop().call_soon(ctypes.PyDLL(None).sleep, 1000)
    await Worker(Settings(watchdog_seconds=0.5, kafka_bootstrap="127.0.0.1:1"), "control").run()
asyncio.run(main())
"""


def test_a_held_interpreter_ends_a_worker() -> None:
    """During its start too, without a supervisor, and with the line that holds it in the log."""
    process = subprocess.run(
        [sys.executable, "-c", HELD], capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=False
    )
    assert process.returncode == EXIT_STALLED, process.stderr
    assert "Timeout (0:00:00.5" in process.stderr
    assert "most recent call first" in process.stderr
