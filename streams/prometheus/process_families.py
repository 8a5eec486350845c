"""The metric that identifies a process."""

from collections.abc import Iterator, Sequence
from functools import cache
from importlib.metadata import version

from streams.prometheus import catalogue
from streams.prometheus.text_format import Part, labels, simple


def process_metrics(worker: str, roles: Sequence[str]) -> Iterator[Part]:
    """The worker's name, its roles and its release."""
    known = labels(worker=worker, roles=",".join(roles), version=_release())
    yield simple(catalogue.WORKER_INFO, [(known, 1)])


@cache
def _release() -> str:
    return version("headrace")
