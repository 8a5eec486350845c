"""The base class of the three servers: a constant address, and start, stop, kill and pause."""

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
    """Distinct ports of 127.0.0.1 that are free at the time of the call."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind((HOST, 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def are_free(ports: Sequence[int]) -> bool:
    """Whether a server could listen on these ports of 127.0.0.1 at the time of the call."""
    for port in ports:
        with socket.socket() as each:
            # As servers do: connections of the last one may still be closing.
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                each.bind((HOST, port))
            except OSError:
                return False
    return True


class Service(ABC):
    """A server with a data folder, which can be started and stopped repeatedly on the same address.

    Call `prepare` once, then `launch` and `wait_until_ready`, or `start`, which calls both. The address is
    known after `wait_until_ready` and is kept across `stop` and `start`. A later run on the same folder gets the same
    ports, if they are free.
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
        """Create the server's folder and files as far as they are missing; raises SetupError."""

    @abstractmethod
    def command(self, ports: Sequence[int]) -> list[str]:
        """The server's command line with these ports."""

    def run_as(self) -> list[str]:
        """A command prefix that changes the user; empty for the current user."""
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
        """Start the server and wait until it is ready; raises SetupError."""
        self.launch()
        self.wait_until_ready()

    def launch(self) -> None:
        if not self._address_known:
            self._ports = self._last_ports() or free_ports(self.port_count)
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
                self._ports_file.unlink(missing_ok=True)
                self.launch()
            else:
                self._address_known = True
                self._ports_file.write_text(" ".join(map(str, self._ports)))
                return

    def request_stop(self) -> None:
        """Send the stop signal; a paused server is resumed first to receive it."""
        if self._process is not None:
            self.resume()
            self._process.request_end(self.stop_signal)

    def stop(self) -> None:
        """Stop the server, and kill it after `stop_seconds`. Idempotent."""
        self.request_stop()
        self.wait_until_gone()

    def wait_until_gone(self) -> None:
        """Wait for the server's end after `request_stop`; kill it after `stop_seconds`."""
        if self._process is not None:
            self._process.wait(self.stop_seconds)
            self._forget_process()

    def kill(self) -> None:
        """Kill the server and its children, like a crash. Idempotent."""
        if self._process is not None:
            for process in self._family():
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            self._process.kill()
            self._forget_process()

    def pause(self) -> None:
        """Suspend the server's processes: it hangs, and its connections stay open."""
        for process in self._family():
            with suppress(psutil.NoSuchProcess):
                process.suspend()

    def resume(self) -> None:
        for process in self._family():
            with suppress(psutil.NoSuchProcess):
                process.resume()

    def run(self, name: str, command: Sequence[str], *, standard_input: bytes = b"") -> None:
        """Run a tool of the server and wait for it; raises SetupError."""
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

    def _last_ports(self) -> list[int]:
        """The ports of the last run on this folder; empty when there was none, or when they are taken."""
        try:
            ports = [int(port) for port in self._ports_file.read_text().split()]
        except (OSError, ValueError):
            return []
        return ports if len(ports) == self.port_count and are_free(ports) else []

    @property
    def _ports_file(self) -> Path:
        return self.directory / "ports"

    @property
    def _log(self) -> Path:
        return self.directory / f"{self.name.lower()}.log"

    def _family(self) -> list[psutil.Process]:
        """The server's processes, parents first; empty if it has ended."""
        # The pid of an ended process may belong to another one already.
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
