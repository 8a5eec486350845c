"""Metrics of the role `monitor`: the firing alerts, and the last sample of the whole system."""

import time
from collections.abc import Iterator

from streams.monitoring.monitor import Monitor
from streams.monitoring.rules.global_rules import Sample, WorkerStatus
from streams.monitoring.watch import SAMPLE_EACH_SECONDS, AlertWatch
from streams.prometheus import catalogue
from streams.prometheus.text_format import NO_LABELS, Part, labels, simple

# One of several monitors takes the samples. When it stops to, its last sample must not be shown for ever.
SAMPLE_EXPIRES_SECONDS = 3 * SAMPLE_EACH_SECONDS
# The default `forget_seconds` of the rule `stale_workers`.
WORKER_EXPIRES_SECONDS = 600.0


class MonitorMetrics:
    """Reads a monitor and its watch."""

    def __init__(self, monitor: Monitor, watch: AlertWatch) -> None:
        self._monitor = monitor
        self._watch = watch

    def read(self) -> Iterator[Part]:
        yield simple(
            catalogue.ALERT_FIRING,
            [
                (
                    labels(
                        scope=alert.scope,
                        rule=alert.rule,
                        severity=alert.severity,
                        model_name=alert.model_name,
                        model_version=alert.model_version,
                    ),
                    1,
                )
                for alert in self._watch.firing
            ],
        )
        yield simple(catalogue.MONITORED_MODELS, [(NO_LABELS, len(self._watch.models))])
        yield simple(catalogue.UNREADABLE_DELTAS, [(NO_LABELS, self._monitor.unreadable)])
        sample, now = self._watch.sampled, time.time()
        if sample is not None and now - sample.at < SAMPLE_EXPIRES_SECONDS:
            yield from global_families(sample, now)


def global_families(sample: Sample, now: float) -> Iterator[Part]:
    """PURE. The metrics of a sample at the Unix time `now`."""
    yield simple(
        catalogue.GROUP_LAG,
        [(labels(partition=str(number)), offsets.lag) for number, offsets in sorted(sample.offsets.items())],
    )
    yield simple(catalogue.MISSING_DELTAS, [(NO_LABELS, sample.missing_deltas)])
    newest = sorted(_newest(sample).items())
    since = now - sample.at
    for metric, values in (
        (catalogue.WORKER_HEARTBEAT_AGE, [status.age_seconds + since for _, status in newest]),
        (catalogue.WORKER_EPOCHS_BEHIND, [max(0, sample.epoch - status.epoch) for _, status in newest]),
        (catalogue.WORKER_MODELS_BEHIND, [len(status.behind) for _, status in newest]),
    ):
        yield simple(
            metric,
            [(labels(worker=worker), value) for (worker, _), value in zip(newest, values, strict=True)],
        )


def _newest(sample: Sample) -> dict[str, WorkerStatus]:
    """The last heartbeat of each worker name; an earlier boot under the same name is left out."""
    newest: dict[str, WorkerStatus] = {}
    for status in sorted(sample.workers, key=lambda each: each.age_seconds):
        if status.age_seconds < WORKER_EXPIRES_SECONDS:
            newest.setdefault(status.worker, status)
    return newest
