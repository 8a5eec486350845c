"""Child processes that end with their parent, together with all their descendants."""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from schemas.errors import SetupError

_LAUNCHER = Path(__file__).with_name("launch.py")
_POLL_SECONDS = 0.02
_KILL_SECONDS = 10.0
_LOG_TAIL_LINES = 15


class PortTakenError(SetupError):
    """Another process took the port between its choice and its use; another port is needed."""


class ChildProcess:
    """A program in a new session, with its output in a log file.

    Create it in a thread that outlives it: the kernel sends the death signal when that thread ends.
    `held_fd` stays open in the child and its descendants.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        log: Path,
        folder: Path | None = None,
        held_fd: int | None = None,
        death_signal: signal.Signals = signal.SIGKILL,
        run_as: Sequence[str] = (),
        standard_input: bytes = b"",
    ) -> None:
        self.name = name
        self._log = log
        # Every descendant inherits the write end, so the read end hangs up when the last one has ended.
        self._alive_fd, alive_write_fd = os.pipe()
        try:
            with log.open("ab") as output:
                self._log_start = output.tell()
                self._popen = subprocess.Popen(
                    [
                        *run_as,
                        *(
                            sys.executable,
                            "-I",
                            "-S",
                            str(_LAUNCHER),
                            str(os.getpid()),
                            str(int(death_signal)),
                        ),
                        *command,
                    ],
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd=folder,
                    # `wait_for_line` expects English messages.
                    env={**os.environ, "LC_ALL": "C.UTF-8"},
                    pass_fds=[alive_write_fd] if held_fd is None else [alive_write_fd, held_fd],
                    # Ctrl-C must reach only the parent, which stops its children in order.
                    start_new_session=True,
                )
        except OSError as error:
            os.close(self._alive_fd)
            raise SetupError(f"{name} cannot be started: {error}") from error
        finally:
            os.close(alive_write_fd)
        assert self._popen.stdin is not None
        with self._popen.stdin as pipe:
            pipe.write(standard_input)

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def running(self) -> bool:
        return self._popen.poll() is None

    def wait_for_line(self, text: bytes, timeout_seconds: float) -> None:
        """Wait until the log has `text`; raises SetupError with the end of the log otherwise."""
        deadline = time.monotonic() + timeout_seconds
        while text not in self._output():
            if not self.running:
                if b"ddress already in use" in self._output():
                    raise PortTakenError(f"the port of {self.name} is in use")
                raise SetupError(f"{self.name} ended during its start {self._log_end()}")
            if time.monotonic() > deadline:
                raise SetupError(f"{self.name} is not ready after {timeout_seconds:g} s {self._log_end()}")
            time.sleep(_POLL_SECONDS)

    def wait_for_success(self, timeout_seconds: float) -> None:
        """Wait until the program ends; raises SetupError with the end of the log if it fails."""
        if not self._wait_for_all(timeout_seconds):
            self.kill()
            raise SetupError(f"{self.name} is not done after {timeout_seconds:g} s {self._log_end()}")
        if self._popen.wait() != 0:
            raise SetupError(f"{self.name} failed {self._log_end()}")

    def request_end(self, number: signal.Signals) -> None:
        """Send a signal to the program."""
        self._popen.send_signal(number)

    def wait(self, timeout_seconds: float) -> None:
        """Wait until the program and its descendants have ended; kill them after the timeout."""
        if self._wait_for_all(timeout_seconds):
            self._popen.wait()
        else:
            self.kill()

    def kill(self) -> None:
        """Kill the program and its group, and wait until its descendants have ended."""
        if self.running:
            os.killpg(self.pid, signal.SIGKILL)
        self._popen.wait()
        if not self._wait_for_all(_KILL_SECONDS):
            raise SetupError(f"{self.name}: a descendant of process {self.pid} is still running")

    def close(self) -> None:
        """Close the pipe to the program; call it when the program has ended."""
        os.close(self._alive_fd)

    def _wait_for_all(self, timeout_seconds: float) -> bool:
        poll = select.poll()
        poll.register(self._alive_fd, select.POLLHUP)
        return bool(poll.poll(timeout_seconds * 1000))

    def _output(self) -> bytes:
        with self._log.open("rb") as log:
            log.seek(self._log_start)
            return log.read()

    def _log_end(self) -> str:
        lines = self._output().decode(errors="replace").strip().splitlines()[-_LOG_TAIL_LINES:]
        return f"(exit code {self._popen.poll()}); the end of {self._log}:\n" + "\n".join(lines)


def run(
    name: str,
    command: Sequence[str],
    *,
    log: Path,
    timeout_seconds: float,
    folder: Path | None = None,
    held_fd: int | None = None,
    run_as: Sequence[str] = (),
    standard_input: bytes = b"",
) -> None:
    """Run a program and wait for it; raises SetupError if it fails. An exception kills it."""
    child = ChildProcess(
        name,
        command,
        log=log,
        folder=folder,
        held_fd=held_fd,
        run_as=run_as,
        standard_input=standard_input,
    )
    try:
        child.wait_for_success(timeout_seconds)
    except BaseException:  # the program must not continue after any interruption
        child.kill()
        raise
    finally:
        child.close()
