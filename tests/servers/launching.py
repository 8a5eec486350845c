"""Real model servers on free ports of this machine: started, asked whether they are ready, and ended.

Each has an environment of its own (`requirements/NAME.txt`) and serves the models of `tests/servers/models/toys.py`.
"""

import random
import re
import socket
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import ClassVar

import httpx
import psutil

from deploy.local.process import ChildProcess
from deploy.local.service import HOST, Service
from schemas.errors import SetupError
from tests.bench import venvs
from tests.servers.models.toys import SLOW_CALLS_FILE
from tests.support.stack.java import OPTIONS

BUILD = Path("build/servers").absolute()
MODELS = Path(__file__).with_name("models")
_REQUIREMENTS = Path(__file__).with_name("requirements")
_POLL_SECONDS = 0.05
_ANSWER_SECONDS = 2.0
_START_ATTEMPTS = 3
_LOG_END_LINES = 30
# Below those that Linux and macOS give to outgoing connections: while a server is down, one of those could
# take its port, and a client that calls it could even be connected to itself.
_PORTS = range(20_000, 32_000)


class Api(StrEnum):
    """What a server speaks."""

    OPEN_INFERENCE = "open-inference"
    TENSORFLOW = "tensorflow"
    TORCHSERVE = "torchserve"


# A model's URL, which is a version's `endpoint`, and what follows for one of the server's versions.
_PATHS = {
    Api.OPEN_INFERENCE: ("/v2/models/{}", "/versions/{}"),
    Api.TENSORFLOW: ("/v1/models/{}", "/versions/{}"),
    Api.TORCHSERVE: ("/predictions/{}", "/{}"),
}


class ModelServerProcess(Service):
    """One kind of server. After `kill` and `start` it is at the same address.

    `own_version` is the version of its `doubler` that it takes by itself, `older_version` the one
    that doubles twice, each None where it has none. With `lists_of_one`, inputs and the doubler's
    output have shape [N, 1] and not [N]. `binaries` is the `bin` folder of its environment.
    """

    requirements: ClassVar[str]
    distribution: ClassVar[str]
    apis: ClassVar[Sequence[Api]]
    own_version: ClassVar[str | None] = None
    older_version: ClassVar[str | None] = None
    lists_of_one: ClassVar[bool] = False
    # Polled, instead of a line of its log.
    ready_line: ClassVar[bytes] = b""

    def __init__(self, directory: Path, binaries: Path) -> None:
        super().__init__(directory)
        self.binaries = binaries

    @classmethod
    def version(cls) -> str:
        """The version of the server that is pinned."""
        pins = (_REQUIREMENTS / f"{cls.requirements}.txt").read_text()
        found = re.search(rf"^{cls.distribution}==([\w.]+)", pins, re.MULTILINE)
        assert found is not None
        return found[1]

    @classmethod
    def check(cls) -> None:
        """Raises LackingError when this machine has not what no environment brings."""

    @abstractmethod
    def program(self, ports: Sequence[int]) -> list[str]: ...

    @abstractmethod
    def ready_urls(self) -> Sequence[str]:
        """What answers 200 when the models can be asked."""

    def environment(self) -> Mapping[str, str]:
        return {"PYTHONPATH": str(MODELS)}

    def command(self, ports: Sequence[int]) -> list[str]:
        variables = {
            # Nothing beside our sources.
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUNBUFFERED": "1",
            SLOW_CALLS_FILE: str(self.slow_calls),
            **self.environment(),
        }
        return [
            "env",
            "-u",
            OPTIONS,
            *(f"{name}={value}" for name, value in variables.items()),
            *self.program(ports),
        ]

    def prepare(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.slow_calls.touch()

    @property
    def slow_calls(self) -> Path:
        """A file that gets a line whenever a slow call has begun."""
        return self.directory / "slow-calls"

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def model_url(self, api: Api, model: str, version: str | None = None) -> str:
        """The endpoint of a model, or of one of its versions on the server."""
        path, suffix = _PATHS[api]
        return self.url + path.format(model) + (suffix.format(version) if version else "")

    def launch(self) -> None:
        if not self._address_known:
            self._ports = _free_ports(self.port_count)
        self._process = ChildProcess(
            self.name,
            self.command(self._ports),
            log=self._log,
            folder=self.directory,
            death_signal=self.death_signal,
        )

    def wait_until_ready(self) -> None:
        for attempt in range(1, _START_ATTEMPTS + 1):
            if self._becomes_ready():
                self._address_known = True
                return
            taken = any(map(_is_taken, self._ports))
            if self._address_known or not taken or attempt == _START_ATTEMPTS:
                break
            self.kill()
            self.launch()
        end = self._log_end()
        self.kill()
        raise SetupError(f"{self.name} does not start; the end of {self._log}:\n{end}")

    def stop(self) -> None:
        """End the server in order, or by force when it takes too long, and all it started. Idempotent."""
        family = self._family()
        self.request_stop()
        _, left = psutil.wait_procs(family, timeout=self.stop_seconds)
        _kill(left)
        self.kill()

    def kill(self) -> None:
        family = self._family()
        super().kill()
        # Some begin a session of their own.
        _kill(family)

    def is_ready(self) -> bool:
        """Does it answer that all its models can be asked?"""
        try:
            return all(self.says_ready(_get(url)) for url in self.ready_urls())
        except httpx.TransportError:
            return False

    def says_ready(self, response: httpx.Response) -> bool:
        return response.status_code == 200

    def _becomes_ready(self) -> bool:
        deadline = time.monotonic() + self.start_seconds
        while self.running and time.monotonic() < deadline:
            if self.is_ready():
                return True
            time.sleep(_POLL_SECONDS)
        return False

    def _log_end(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return "\n".join(lines[-_LOG_END_LINES:])


def install(server: type[ModelServerProcess], report: Callable[[str], None]) -> Path:
    """The `bin` folder of its environment, made when it is not there.

    Raises LackingError when this machine lacks what the server needs, SetupError when it fails.
    """
    server.check()
    return venvs.ensure(_REQUIREMENTS / f"{server.requirements}.txt", BUILD, report)


def _free_ports(count: int) -> list[int]:
    candidates = random.sample(_PORTS, 100)
    return [port for port in candidates if not _is_taken(port)][:count]


def _get(url: str) -> httpx.Response:
    return httpx.get(url, timeout=_ANSWER_SECONDS, trust_env=False)


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return True
    return False


def _kill(processes: Sequence[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes)
