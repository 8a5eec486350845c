"""A contender as a running process, given its topics and addresses by its environment."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from deploy.local.process import ChildProcess

from .contenders import Contender
from .ground import Ground

_STOP_SECONDS = 15.0
_LOG_END_BYTES = 2000
# What Headrace writes beside responses.
DEAD_LETTERS, METRICS = "bench-dead-letters", "bench-metrics"


class Running:
    """A started contender; `log` is where it writes."""

    def __init__(self, child: ChildProcess, log: Path) -> None:
        self._child = child
        self._usage = psutil.Process(child.pid)
        self._log = log

    @property
    def alive(self) -> bool:
        return self._child.running

    @property
    def cpu_seconds(self) -> float:
        """What it has used of all processors so far."""
        used = self._usage.cpu_times()
        return float(used.user + used.system)

    @property
    def rss_bytes(self) -> int:
        return int(self._usage.memory_info().rss)

    @property
    def log_end(self) -> str:
        return self._log.read_bytes()[-_LOG_END_BYTES:].decode(errors="replace").strip()


def redis_url(contender: Contender, ground: Ground) -> str:
    """Where a contender's family keeps its predictions."""
    return f"{ground.redis_url.rpartition('/')[0]}/{contender.redis_db}"


@contextmanager
def run(
    contender: Contender, ground: Ground, venvs: dict[str, Path], source: str, sink: str
) -> Iterator[Running]:
    """Start a contender that reads `source` from its start and writes `sink`; it ends with the block."""
    log = ground.folder / f"{contender.name}.log"
    program, *arguments = contender.command
    if contender.venv is not None:
        program = str(venvs[contender.venv] / program)
    settings = [f"{name}={value}" for name, value in _environment(contender, ground, source, sink).items()]
    # What a framework keeps in its working folder ends with the ground.
    scratch = ground.folder / "scratch"
    scratch.mkdir(exist_ok=True)
    child = ChildProcess(contender.name, ["env", *settings, program, *arguments], log=log, folder=scratch)
    try:
        yield Running(child, log)
        child.request_end(signal.SIGTERM)
        child.wait(_STOP_SECONDS)
    finally:
        child.kill()
        child.close()


def _environment(contender: Contender, ground: Ground, source: str, sink: str) -> dict[str, str]:
    cache_url = redis_url(contender, ground)
    return {
        "BENCH_BOOTSTRAP": ground.kafka_bootstrap,
        "BENCH_INPUT": source,
        "BENCH_OUTPUT": sink,
        "BENCH_GROUP": sink,
        "BENCH_REDIS_URL": cache_url,
        "BENCH_MODEL": str(ground.model_file),
        "HEADRACE_KAFKA_BOOTSTRAP": ground.kafka_bootstrap,
        "HEADRACE_POSTGRES_DSN": ground.postgres_dsn,
        "HEADRACE_REDIS_URL": cache_url,
        "HEADRACE_TOPIC_REQUESTS": source,
        "HEADRACE_TOPIC_RESPONSES": sink,
        "HEADRACE_TOPIC_DEAD_LETTERS": DEAD_LETTERS,
        "HEADRACE_TOPIC_METRICS": METRICS,
        "HEADRACE_GROUP_ID": sink,
        "HEADRACE_ARTIFACT_DIR": str(ground.folder / "artifacts"),
        "MLSERVER_KAFKA_SERVERS": ground.kafka_bootstrap,
        "MLSERVER_KAFKA_TOPIC_INPUT": source,
        "MLSERVER_KAFKA_TOPIC_OUTPUT": sink,
        **contender.environment,
    }
