"""A competitor as a running process, given its topics and addresses as environment variables."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from deploy.local.process import ChildProcess

from .competitors import Competitor
from .environment import Environment

_STOP_SECONDS = 15.0
_LOG_END_BYTES = 2000
# What Headrace writes beside responses.
DEAD_LETTERS, METRICS = "bench-dead-letters", "bench-metrics"


class Running:
    """A started competitor; `log` is where it writes."""

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


def redis_url(competitor: Competitor, environment: Environment) -> str:
    """Where a competitor's family keeps its predictions."""
    return f"{environment.redis_url.rpartition('/')[0]}/{competitor.redis_db}"


@contextmanager
def run(
    competitor: Competitor, environment: Environment, venvs: dict[str, Path], source: str, sink: str
) -> Iterator[Running]:
    """Start a competitor that reads `source` from its start and writes `sink`; it ends with the block."""
    log = environment.folder / f"{competitor.name}.log"
    program, *arguments = competitor.command
    if competitor.venv is not None:
        program = str(venvs[competitor.venv] / program)
    settings = [
        f"{name}={value}" for name, value in _variables(competitor, environment, source, sink).items()
    ]
    # What a framework keeps in its working folder is deleted with the folder of the run.
    scratch = environment.folder / "scratch"
    scratch.mkdir(exist_ok=True)
    child = ChildProcess(competitor.name, ["env", *settings, program, *arguments], log=log, folder=scratch)
    try:
        yield Running(child, log)
        child.request_end(signal.SIGTERM)
        child.wait(_STOP_SECONDS)
    finally:
        child.kill()
        child.close()


def _variables(competitor: Competitor, environment: Environment, source: str, sink: str) -> dict[str, str]:
    cache_url = redis_url(competitor, environment)
    return {
        "BENCH_BOOTSTRAP": environment.kafka_bootstrap,
        "BENCH_INPUT": source,
        "BENCH_OUTPUT": sink,
        "BENCH_GROUP": sink,
        "BENCH_REDIS_URL": cache_url,
        "BENCH_MODEL": str(environment.model_file),
        "HEADRACE_KAFKA_BOOTSTRAP": environment.kafka_bootstrap,
        "HEADRACE_POSTGRES_DSN": environment.postgres_dsn,
        "HEADRACE_REDIS_URL": cache_url,
        "HEADRACE_TOPIC_REQUESTS": source,
        "HEADRACE_TOPIC_RESPONSES": sink,
        "HEADRACE_TOPIC_DEAD_LETTERS": DEAD_LETTERS,
        "HEADRACE_TOPIC_METRICS": METRICS,
        "HEADRACE_GROUP_ID": sink,
        "HEADRACE_ARTIFACT_DIR": str(environment.folder / "artifacts"),
        "MLSERVER_KAFKA_SERVERS": environment.kafka_bootstrap,
        "MLSERVER_KAFKA_TOPIC_INPUT": source,
        "MLSERVER_KAFKA_TOPIC_OUTPUT": sink,
        **competitor.variables,
    }
