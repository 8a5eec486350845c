"""What the three servers have in common: an address that stays, and a life that starts and ends."""

import signal
import socket
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

import psutil

from deploy.local.process import ChildProcess, PortTakenError, run
from schemas.errors import SetupError

HOST = "127.0.0.1"
_PORT_ATTEMPTS = 3


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody used a moment ago, all different."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind((HOST, 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


class Service(ABC):
    """A server with its folder, started and stopped as often as wanted on the same address.

    `prepare` it once, then `launch` and `wait_until_ready` (or `start`, which is both). The address
    is known after `wait_until_ready` and stays over `stop` and `start`.
    """

    name: ClassVar[str]
    ready_line: ClassVar[bytes]
    port_count: ClassVar[int] = 1
    start_seconds: ClassVar[float] = 60.0
    stop_seconds: ClassVar[float] = 10.0
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM
    death_signal: ClassVar[signal.Signals] = signal.SIGKILL

    def __init__(self, directory: Path, held_fd: int | None = None) -> None:
        self.directory = directory
        self._held_fd = held_fd
        self._ports: list[int] = []
        self._address_known = False
        self._process: ChildProcess | None = None

    @abstractmethod
    def prepare(self) -> None:
        """Make what the server needs and its folder does not have yet; raises SetupError."""

    @abstractmethod
    def command(self, ports: Sequence[int]) -> list[str]:
        """The server's command line for these ports."""

    def run_as(self) -> list[str]:
        """A command that runs the rest of its line as another user; empty for this user."""
        return []

    @property
    def port(self) -> int:
        return self._ports[0]

    @property
    def pid(self) -> int:
        return self._running_process().pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.running

    def start(self) -> None:
        """Start the server and wait until it serves; raises SetupError."""
        self.launch()
        self.wait_until_ready()

    def launch(self) -> None:
        if not self._address_known:
            self._ports = free_ports(self.port_count)
        self._process = ChildProcess(
            self.name,
            self.command(self._ports),
            log=self._log,
            folder=self.directory,
            held_fd=self._held_fd,
            death_signal=self.death_signal,
            run_as=self.run_as(),
        )

    def wait_until_ready(self) -> None:
        for attempt in range(1, _PORT_ATTEMPTS + 1):
            try:
                self._running_process().wait_for_line(self.ready_line, self.start_seconds)
            except PortTakenError:
                self.kill()
                if self._address_known or attempt == _PORT_ATTEMPTS:
                    raise
                self.launch()
            else:
                self._address_known = True
                return

    def request_stop(self) -> None:
        """Ask the server to end; a paused one is woken to hear it."""
        if self._process is not None:
            self.resume()
            self._process.request_end(self.stop_signal)

    def stop(self) -> None:
        """End the server in order, or by force when it takes too long. Idempotent."""
        self.request_stop()
        self.wait_until_gone()

    def wait_until_gone(self) -> None:
        """Wait for the end that was requested; force it when it takes too long."""
        if self._process is not None:
            self._process.wait(self.stop_seconds)
            self._forget_process()

    def kill(self) -> None:
        """End the server as a crash would. Idempotent."""
        if self._process is not None:
            for process in self._family():
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            self._process.kill()
            self._forget_process()

    def pause(self) -> None:
        """Stop the server's processes from running: it hangs, its connections stay open."""
        for process in self._family():
            with suppress(psutil.NoSuchProcess):
                process.suspend()

    def resume(self) -> None:
        for process in self._family():
            with suppress(psutil.NoSuchProcess):
                process.resume()

    def run(self, name: str, command: Sequence[str], *, standard_input: bytes = b"") -> None:
        """Run a tool of the server's to its end; raises SetupError."""
        run(
            name,
            command,
            log=self._log,
            timeout_seconds=self.start_seconds,
            folder=self.directory,
            held_fd=self._held_fd,
            run_as=self.run_as(),
            standard_input=standard_input,
        )

    @property
    def _log(self) -> Path:
        return self.directory / f"{self.name.lower()}.log"

    def _family(self) -> list[psutil.Process]:
        """The server and all it started, parents first; none if it has ended."""
        # An ended one's pid may already be another's.
        if not self.running:
            return []
        server = psutil.Process(self.pid)
        return [server, *server.children(recursive=True)]

    def _running_process(self) -> ChildProcess:
        if self._process is None:
            raise SetupError(f"{self.name} is not started")
        return self._process

    def _forget_process(self) -> None:
        self._running_process().close()
        self._process = None
