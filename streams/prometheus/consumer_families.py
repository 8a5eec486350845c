"""Metrics of the topic that a role reads."""

import time
from collections.abc import Iterator

from schemas.record_time import is_in_milliseconds
from streams.kafka.faust_app import WorkerApp, consumer_of
from streams.kafka.offset_tracker import FULL_SLICE_WEIGHT
from streams.kafka.stepping_over import StepOver
from streams.prometheus import catalogue
from streams.prometheus.text_format import Part, labels, simple, with_label


class ConsumerMetrics:
    """Reads the consumer of an app that has started."""

    def __init__(self, app: WorkerApp, topic: str, step_over: StepOver) -> None:
        self._app = app
        self._topic = topic
        self._step_over = step_over

    def read(self) -> Iterator[Part]:
        consumer = consumer_of(self._app)
        of_topic = labels(topic=self._topic)
        yield simple(
            catalogue.CONSUMER_LAG,
            [
                (with_label(of_topic, "partition", str(partition.partition)), lag)
                for partition, lag in sorted(consumer.lags().items())
            ],
        )
        oldest_ms = consumer.offsets.oldest_ms()
        known = oldest_ms is not None and is_in_milliseconds(oldest_ms)
        age_seconds = max(0.0, time.time() - (oldest_ms or 0) / 1000) if known else 0.0
        yield simple(catalogue.CONSUMER_OLDEST_AGE, [(of_topic, age_seconds)])
        for metric, weight in (
            (catalogue.CONSUMER_INFLIGHT_SLICES, consumer.offsets.outstanding),
            (catalogue.CONSUMER_SET_ASIDE_SLICES, consumer.offsets.set_aside),
        ):
            yield simple(metric, [(of_topic, weight / FULL_SLICE_WEIGHT)])
        yield simple(
            catalogue.CONSUMER_STEPPED_OVER,
            [(with_label(of_topic, "code", code), count) for code, count in self._step_over.counts.items()],
        )
        yield simple(
            catalogue.CONSUMER_RECREATED_TOPICS, [(of_topic, consumer.topics.recreated_total[self._topic])]
        )
        yield simple(catalogue.RECORDS_LOST, [(of_topic, consumer.lost.total[self._topic])])
