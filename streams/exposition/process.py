"""Which process this is."""

from collections.abc import Iterator, Sequence
from functools import cache
from importlib.metadata import version

from prometheus_client.metrics_core import Metric

from streams.exposition.families import gauge


def process_metrics(worker: str, roles: Sequence[str]) -> Iterator[Metric]:
    """The worker's name, its roles and its release."""
    labels = {"worker": worker, "roles": ",".join(roles), "version": _release()}
    yield gauge("headrace_worker_info", "Which worker this process is; always 1.", [(labels, 1)])


@cache
def _release() -> str:
    return version("headrace")
