"""Sending the metrics deltas, each once, also through the end of the worker."""

from collections import deque
from datetime import UTC, datetime

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from schemas.events import MetricsDelta
from streams.serving.request_metrics import MetricsRegistry

log = structlog.get_logger()


class DeltaSender:
    """Sends what a book has counted to a topic.

    A delta stays at hand until it is handed to the producer: a `send` that is cancelled before, as when
    the worker ends while the producer learns of the topic, leaves it to the next.
    """

    def __init__(self, book: MetricsRegistry, topic: str) -> None:
        self._book = book
        self._topic = topic
        self._unsent: deque[MetricsDelta] = deque()

    async def send(self, producer: AIOKafkaProducer) -> None:
        """Close the book's window and hand over its deltas."""
        self._unsent += self._book.close_window(datetime.now(UTC))
        while self._unsent:
            delta = self._unsent[0]
            try:
                # Its delivery is not awaited: a delta that is lost shows as a gap in `seq`.
                await producer.send(
                    self._topic, value=delta.model_dump_json().encode(), key=delta.model_name.encode()
                )
            except KafkaError as error:
                log.warning("metrics not sent", reason=repr(error))
            self._unsent.popleft()
