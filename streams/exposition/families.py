"""PURE. Metrics of one name with their samples, as the library takes them."""

from collections.abc import Iterable, Mapping
from itertools import accumulate

from prometheus_client.metrics_core import Metric

from streams.latency_total import BOUNDS_SECONDS, LatencyTotal

Labels = Mapping[str, str]
Samples = Iterable[tuple[Labels, float]]

NO_LABELS: Labels = {}
_LE = [*(format(bound, ".8g") for bound in BOUNDS_SECONDS[:-1]), "+Inf"]


def gauge(name: str, meaning: str, samples: Samples) -> Metric:
    """What goes up and down."""
    metric = Metric(name, meaning, "gauge")
    for labels, value in samples:
        metric.add_sample(name, dict(labels), value)
    return metric


def counter(name: str, meaning: str, samples: Samples) -> Metric:
    """What is counted since the process began; `name` without `_total`."""
    metric = Metric(name, meaning, "counter")
    for labels, value in samples:
        metric.add_sample(f"{name}_total", dict(labels), value)
    return metric


def summary(name: str, meaning: str, labels: Labels, count: int, total: float) -> Metric:
    """Of what only the mean is told."""
    metric = Metric(name, meaning, "summary")
    metric.add_sample(f"{name}_count", dict(labels), count)
    metric.add_sample(f"{name}_sum", dict(labels), total)
    return metric


def histogram(name: str, meaning: str, labels: Labels, latencies: LatencyTotal) -> Metric:
    """Seconds in cumulative buckets; without any sample where nothing was measured yet."""
    metric = Metric(name, meaning, "histogram")
    if latencies.count:
        for le, count in zip(_LE, accumulate(latencies.buckets), strict=True):
            metric.add_sample(f"{name}_bucket", {**labels, "le": le}, count)
        metric.add_sample(f"{name}_count", dict(labels), latencies.count)
        metric.add_sample(f"{name}_sum", dict(labels), latencies.sum_ms / 1000)
    return metric
