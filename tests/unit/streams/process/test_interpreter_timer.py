"""A library holds the interpreter: no Python thread runs, and the process ends all the same."""

import ctypes
import subprocess
import sys
import threading

import pytest

from streams.process import interpreter_timer
from streams.process.interpreter_timer import DUMP_SECONDS, InterpreterTimer
from streams.process.watchdog import EXIT_STALLED
from tests.support.deadline import DEADLINE_SECONDS

LIMIT_SECONDS = 100 * DEADLINE_SECONDS
HELD = """
import ctypes, re, sys
from streams.process import interpreter_timer
from streams.process.interpreter_timer import InterpreterTimer
if sys.argv[2] == "no timer":
    def refuse(code):
        raise OSError
    interpreter_timer._ExitTimer = refuse
with InterpreterTimer(0.2):
    print("held", flush=True)
    if sys.argv[1] == "sleep":
        ctypes.PyDLL(None).sleep(1000)
    else:
        re.match("(a+)+$", "a" * 1000 + "b")
"""


def ended(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )


@pytest.mark.parametrize("held_by", ["sleep", "pattern"])
def test_a_held_interpreter_ends_the_process(held_by: str) -> None:
    """The dump shows the line that holds it."""
    process = ended(HELD, held_by, "timer")
    assert (process.returncode, process.stdout) == (EXIT_STALLED, "held\n")
    assert process.stderr.startswith("Timeout (0:00:00.2")
    assert 'File "<string>"' in process.stderr


def test_without_such_a_timer_it_ends_with_another_code() -> None:
    assert ended(HELD, "sleep", "no timer").returncode == 1


def test_a_free_interpreter_restarts_the_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Again and again; with the block the timer ends."""
    timer = RecordingTimer()
    monkeypatch.setattr(interpreter_timer, "_ExitTimer", lambda _: timer)
    with InterpreterTimer(LIMIT_SECONDS):
        assert timer.started_again.wait(DEADLINE_SECONDS)
        assert not timer.closed
    assert timer.closed
    assert set(timer.starts) == {LIMIT_SECONDS + DUMP_SECONDS}


class RecordingTimer:
    """Ends nothing."""

    def __init__(self) -> None:
        self.starts: list[float] = []
        self.started_again = threading.Event()
        self.closed = False

    def start(self, seconds: float) -> None:
        self.starts.append(seconds)
        if len(self.starts) == 3:
            self.started_again.set()

    def close(self) -> None:
        self.closed = True


def test_a_system_without_timers_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: object())
    with InterpreterTimer(DEADLINE_SECONDS):
        """The process goes on."""
