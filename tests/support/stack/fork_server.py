"""Starts `headrace` processes as forks of a process that has imported everything.

A start of a worker takes 1.6 s of processor time, nearly all of it for imports, and the suite starts hundreds of
workers and commands. A fork of the server takes 0.1 s. It is a process with an environment, a folder, standard
streams, signals and an exit code of its own. The tests of `headrace up`, the demo, the wheel, the supervisor and
terminals run the installed command.

The client sends a line of JSON with the file descriptors of the new process; the server answers with its pid,
and writes its exit code to a pipe when it has ended.
"""

import array
import atexit
import contextlib
import importlib
import io
import json
import os
import pkgutil
import select
import selectors
import signal
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from tests.support.worker.kill_points import VARIABLE, install

_MESSAGE_BYTES = 1024 * 1024
_FDS = 4


class ForkedProcess:
    """`headrace ARGUMENTS` as a process; `subprocess.Popen` as far as tests use it.

    `stdin`, `stdout` and `stderr` are file descriptors, which the caller may close afterwards.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        env: Mapping[str, str],
        stdin: int,
        stdout: int,
        stderr: int,
        cwd: Path | None = None,
    ) -> None:
        self.returncode: int | None = None
        # One thread may wait while another one sends a signal.
        self._ending = threading.Lock()
        self._status, status = os.pipe()
        try:
            self.pid = _client().start(
                {"arguments": list(arguments), "env": dict(env), "cwd": str(cwd or Path.cwd())},
                (stdin, stdout, stderr, status),
            )
        except BaseException:
            os.close(self._status)
            raise
        finally:
            os.close(status)

    def __del__(self) -> None:
        # Without a pid the start has failed.
        if self.returncode is None and hasattr(self, "pid"):
            os.close(self._status)
            warnings.warn(
                f"process {self.pid} was not waited for", ResourceWarning, source=self, stacklevel=1
            )

    def wait(self, timeout: float) -> int:
        """The exit code, negative for a signal; raises subprocess.TimeoutExpired."""
        if not self._has_ended(timeout):
            raise subprocess.TimeoutExpired(str(self.pid), timeout)
        with self._ending:
            if self.returncode is None:
                written = os.read(self._status, 100)
                assert written, "the fork server has ended"
                os.close(self._status)
                self.returncode = int(written)
            return self.returncode

    def send_signal(self, number: int) -> None:
        with self._ending:
            if not self._has_ended(0):
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _has_ended(self, within_seconds: float) -> bool:
        if self.returncode is not None:
            return True
        # `select.select` refuses file descriptors from 1024.
        poll = select.poll()
        poll.register(self._status, select.POLLIN)
        return bool(poll.poll(within_seconds * 1000))


class _Client:
    """Starts the server, and talks to it."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # A single thread can be forked safely; libraries must not start theirs at import.
        single = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        plain = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
        self._server = subprocess.Popen(
            [sys.executable, "-m", __name__, str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            cwd=Path(__file__).parents[3],
            env=plain | single,
            pass_fds=[theirs.fileno()],
        )
        theirs.close()
        self._lock = threading.Lock()
        atexit.register(self.close)

    def start(self, order: dict[str, Any], fds: Sequence[int]) -> int:
        message = json.dumps(order).encode()
        assert len(message) < _MESSAGE_BYTES
        with self._lock:
            socket.send_fds(self._socket, [message], list(fds))
            answer = self._socket.recv(100)
        assert answer, "the fork server has ended; its standard error says why"
        return int(answer)

    def close(self) -> None:
        self._socket.close()
        self._server.wait()


_started: list[_Client] = []
_starting = threading.Lock()


def _client() -> _Client:
    with _starting:
        if not _started:
            _started.append(_Client())
        return _started[0]


def import_all() -> dict[str, str]:
    """Import every module of `streams`; returns the environment variables that the imports have added."""
    import streams

    before = dict(os.environ)
    for module in pkgutil.walk_packages(streams.__path__, "streams."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    tasks = Path("/proc/self/task")
    threads = len(list(tasks.iterdir())) if tasks.is_dir() else threading.active_count()
    assert threads == 1, f"a process with {threads} threads must not be forked"
    return {name: value for name, value in os.environ.items() if name not in before}


def _serve(connection: socket.socket) -> tuple[dict[str, Any], Sequence[int]] | None:
    """Fork a process for every order. Returns the order in the new process, and None in the server at its end."""
    ended, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake)
    statuses: dict[int, int] = {}
    with selectors.DefaultSelector() as ready:
        ready.register(connection, selectors.EVENT_READ)
        ready.register(ended, selectors.EVENT_READ)
        while True:
            for key, _ in ready.select():
                if key.fileobj is ended:
                    os.read(ended, 4096)
                    _reap(statuses)
                    continue
                message, fds = _receive(connection)
                if not message:
                    return None
                pid = os.fork()
                if pid == 0:
                    signal.set_wakeup_fd(-1)
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    signal.signal(signal.SIGINT, signal.default_int_handler)
                    for fd in (ended, wake, *statuses.values(), fds[3]):
                        os.close(fd)
                    connection.close()
                    return json.loads(message), fds[:3]
                for fd in fds[:3]:
                    os.close(fd)
                statuses[pid] = fds[3]
                connection.send(str(pid).encode())


def _receive(connection: socket.socket) -> tuple[bytes, list[int]]:
    message, ancillary, _, _ = connection.recvmsg(_MESSAGE_BYTES, socket.CMSG_SPACE(_FDS * 4))
    fds = array.array("i")
    for _, _, data in ancillary:
        fds.frombytes(data)
    return message, list(fds)


def _reap(statuses: dict[int, int]) -> None:
    while statuses:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        pipe = statuses.pop(pid)
        # The pipe has no reader once the test has ended.
        with contextlib.suppress(BrokenPipeError):
            os.write(pipe, str(os.waitstatus_to_exitcode(status)).encode())
        os.close(pipe)


def set_environment(env: Mapping[str, str], of_imports: Mapping[str, str]) -> None:
    """Replace the environment of this process, as if its imports had run with `env`."""
    os.environ.clear()
    os.environ.update({**of_imports, **env})


def _become(order: dict[str, Any], fds: Sequence[int], of_imports: Mapping[str, str]) -> NoReturn:
    """Run `headrace` in this process; `of_imports` are environment variables that its imports set."""
    for target, fd in enumerate(fds):
        os.dup2(fd, target)
        os.close(fd)
    sys.stdin = io.TextIOWrapper(open(0, "rb", closefd=False), encoding="utf-8")  # noqa: SIM115 - lives as long as the process
    sys.stdout = io.TextIOWrapper(open(1, "wb", closefd=False), encoding="utf-8")  # noqa: SIM115 - lives as long as the process
    sys.stderr = io.TextIOWrapper(
        open(2, "wb", closefd=False),  # noqa: SIM115 - lives as long as the process
        encoding="utf-8",
        errors="backslashreplace",
        line_buffering=True,
    )
    set_environment(order["env"], of_imports)
    if VARIABLE in os.environ:
        install(Path(os.environ[VARIABLE]))
    os.chdir(order["cwd"])
    sys.argv = ["headrace", *order["arguments"]]
    # The command line names the program after the module that was started, unless it is a script.
    sys.modules["__main__"].__package__ = None
    from streams.cli.main import main

    main()
    sys.exit(0)


if __name__ == "__main__":
    # With a frozen heap the collector of a fork leaves the pages of its imports shared.
    import gc

    added = import_all()
    gc.collect()
    gc.freeze()
    forked = _serve(socket.socket(fileno=int(sys.argv[1])))
    if forked is not None:
        _become(*forked, added)
