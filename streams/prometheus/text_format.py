"""PURE. Metrics in Prometheus's text format (version 0.0.4), written as they are read.

The client library writes them too, at ten times the cost: with a hundred models a page has twenty thousand lines.
"""

from collections.abc import Iterable
from itertools import accumulate
from typing import NamedTuple

from streams.serving.latency_total import BOUNDS_SECONDS, LatencyTotal

Labels = str
"""As they stand between braces."""
Samples = Iterable[tuple[Labels, float]]

NO_LABELS: Labels = ""
_LE = [*(format(bound, ".8g") for bound in BOUNDS_SECONDS[:-1]), "+Inf"]


class Part(NamedTuple):
    """Samples of one name, below its description; there may be other parts of the same name."""

    name: str
    head: str
    lines: str


def labels(**values: str) -> Labels:
    """Labels with these values; those that are empty are none, to Prometheus."""
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in values.items())


def with_label(others: Labels, name: str, value: str) -> Labels:
    """Labels and one more."""
    return f'{others},{name}="{_escaped(value)}"' if others else f'{name}="{_escaped(value)}"'


def gauge(name: str, meaning: str, samples: Samples) -> Part:
    """What goes up and down."""
    return Part(name, _head(name, "gauge", meaning), _lines(name, samples))


def counter(name: str, meaning: str, samples: Samples) -> Part:
    """What is counted since the process began; its name ends in `_total`."""
    return Part(name, _head(name, "counter", meaning), _lines(name, samples))


def summary(name: str, meaning: str, labelled: Labels, *, count: int, total: float) -> Part:
    """Of what only the mean is told."""
    lines = _lines(f"{name}_count", [(labelled, count)]) + _lines(f"{name}_sum", [(labelled, total)])
    return Part(name, _head(name, "summary", meaning), lines)


def histogram(name: str, meaning: str, labelled: Labels, latencies: LatencyTotal) -> Part:
    """Seconds in cumulative buckets; there are labels."""
    buckets = "".join(
        f'{name}_bucket{{{labelled},le="{le}"}} {count}\n'
        for le, count in zip(_LE, accumulate(latencies.buckets), strict=True)
    )
    count = _lines(f"{name}_count", [(labelled, latencies.count)])
    return Part(
        name,
        _head(name, "histogram", meaning),
        f"{buckets}{count}{name}_sum{{{labelled}}} {latencies.sum_ms / 1000!r}\n",
    )


def _head(name: str, kind: str, meaning: str) -> str:
    return f"# HELP {name} {meaning}\n# TYPE {name} {kind}\n"


def _lines(name: str, samples: Samples) -> str:
    return "".join(
        f"{name}{{{labelled}}} {float(value)!r}\n" if labelled else f"{name} {float(value)!r}\n"
        for labelled, value in samples
    )


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
