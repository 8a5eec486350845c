"""Sending the metrics deltas to Kafka, each once, also while the worker ends."""

from collections import deque
from datetime import UTC, datetime

from schemas.events import MetricsDelta
from streams.kafka.batch_producer import BatchProducer
from streams.process.background import FailureLog
from streams.serving.request_metrics import MetricsRegistry

NOT_SENT = "metrics not sent"


class DeltaSender:
    """Sends the counts of a registry to a topic.

    A delta stays in the queue until the producer has it. So a `send` that is cancelled (as when the worker ends
    while the producer still fetches the topic's metadata) leaves it to the next `send`.
    """

    def __init__(self, metrics: MetricsRegistry, topic: str) -> None:
        self._metrics = metrics
        self._topic = topic
        self._unsent: deque[MetricsDelta] = deque()
        self._failures = FailureLog(NOT_SENT)

    async def send(self, producer: BatchProducer) -> None:
        """Close the window and give its deltas to the producer; logs a failure and drops that delta."""
        self._unsent += self._metrics.close_window(datetime.now(UTC))
        while self._unsent:
            delta = self._unsent[0]
            try:
                # Nothing waits for the delivery: readers see a lost delta as a gap in `seq`.
                await producer.send_record(
                    self._topic, delta.model_dump_json().encode(), key=delta.model_name.encode()
                )
            except Exception as error:  # noqa: BLE001  # it is logged and counted
                self._failures.failed(error)
            else:
                self._failures.succeeded()
            self._unsent.popleft()
