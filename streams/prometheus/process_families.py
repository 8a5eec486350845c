"""Which process this is."""

from collections.abc import Iterator, Sequence
from functools import cache
from importlib.metadata import version

from streams.prometheus.text_format import Part, gauge, labels


def process_metrics(worker: str, roles: Sequence[str]) -> Iterator[Part]:
    """The worker's name, its roles and its release."""
    known = labels(worker=worker, roles=",".join(roles), version=_release())
    yield gauge("headrace_worker_info", "Which worker this process is; always 1.", [(known, 1)])


@cache
def _release() -> str:
    return version("headrace")
