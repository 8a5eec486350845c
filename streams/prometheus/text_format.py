"""PURE. Metrics in Prometheus's text format (version 0.0.4).

Written here because the client library takes ten times as long: with 100 models a page has 20,000 lines.
"""

from collections.abc import Iterable
from itertools import accumulate
from typing import NamedTuple

from streams.prometheus.catalogue import Metric
from streams.serving.latency_total import BOUNDS_SECONDS, LatencyTotal

Labels = str
"""Label pairs as they stand between braces."""
Samples = Iterable[tuple[Labels, float]]

NO_LABELS: Labels = ""
_LE = [*(format(bound, ".8g") for bound in BOUNDS_SECONDS[:-1]), "+Inf"]


class Part(NamedTuple):
    """Samples of one metric with its description; a page joins the parts of one metric."""

    name: str
    head: str
    lines: str


def labels(**values: str) -> Labels:
    """Label pairs with these values. Prometheus treats empty labels as absent."""
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in values.items())


def with_label(others: Labels, name: str, value: str) -> Labels:
    """Label pairs and one more."""
    return f'{others},{name}="{_escaped(value)}"' if others else f'{name}="{_escaped(value)}"'


def simple(metric: Metric, samples: Samples) -> Part:
    """A counter or a gauge."""
    return Part(metric.name, _head(metric), _lines(metric.name, samples))


def summary(metric: Metric, labelled: Labels, *, count: int, total: float) -> Part:
    """A summary without quantiles: a sum and a count, so only the mean can be computed."""
    name = metric.name
    lines = _lines(f"{name}_count", [(labelled, count)]) + _lines(f"{name}_sum", [(labelled, total)])
    return Part(name, _head(metric), lines)


def histogram(metric: Metric, labelled: Labels, latencies: LatencyTotal) -> Part:
    """A histogram of seconds in cumulative buckets; `labelled` is not empty."""
    name = metric.name
    buckets = "".join(
        f'{name}_bucket{{{labelled},le="{le}"}} {count}\n'
        for le, count in zip(_LE, accumulate(latencies.buckets), strict=True)
    )
    count = _lines(f"{name}_count", [(labelled, latencies.count)])
    return Part(
        name, _head(metric), f"{buckets}{count}{name}_sum{{{labelled}}} {latencies.sum_ms / 1000!r}\n"
    )


def _head(metric: Metric) -> str:
    return f"# HELP {metric.name} {metric.meaning}\n# TYPE {metric.name} {metric.type}\n"


def _lines(name: str, samples: Samples) -> str:
    return "".join(
        f"{name}{{{labelled}}} {float(value)!r}\n" if labelled else f"{name} {float(value)!r}\n"
        for labelled, value in samples
    )


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
