"""What every role shows of the topic that it reads."""

import time
from collections.abc import Iterator

from streams.kafka.faust_app import WorkerApp, consumer_of
from streams.kafka.offset_tracker import FULL_SLICE_WEIGHT
from streams.prometheus.text_format import Part, gauge, labels, with_label


class ConsumerMetrics:
    """Reads what the consumer of an app knows; the app has started."""

    def __init__(self, app: WorkerApp, topic: str) -> None:
        self._app = app
        self._topic = topic

    def read(self) -> Iterator[Part]:
        consumer = consumer_of(self._app)
        of_topic = labels(topic=self._topic)
        yield gauge(
            "headrace_consumer_lag_records",
            "Records of an own partition that this process was not handed yet, as of its last fetch.",
            [
                (with_label(of_topic, "partition", str(partition.partition)), lag)
                for partition, lag in sorted(consumer.lags().items())
            ],
        )
        oldest_ms = consumer.offsets.oldest_ms()
        yield gauge(
            "headrace_consumer_oldest_age_seconds",
            "How old the oldest record is that this process works on; 0 while there is none.",
            [(of_topic, 0.0 if oldest_ms is None else max(0.0, time.time() - oldest_ms / 1000))],
        )
        yield gauge(
            "headrace_consumer_inflight_slices",
            "The unacknowledged slices, in units of one full slice.",
            [(of_topic, consumer.offsets.outstanding / FULL_SLICE_WEIGHT)],
        )
