"""streams/serving/deltas.py: every delta is handed to the producer, whatever interrupts the sending."""

import asyncio
from datetime import UTC, datetime
from typing import Any, cast

from schemas.errors import BrokerUnavailableError
from schemas.events import MetricsDelta
from streams.kafka.batch_producer import BatchProducer
from streams.serving.deltas import DeltaSender
from streams.serving.request_metrics import MetricsRegistry


class Producer:
    """Accepts deltas once its gate is open."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.asked = asyncio.Event()
        self.refuse: set[int] = set()
        self.taken: list[int] = []

    async def send_record(self, topic: str, value: bytes, *, key: bytes) -> None:
        assert topic == "metrics"
        self.asked.set()
        await self.gate.wait()
        delta = MetricsDelta.model_validate_json(value)
        assert key == delta.model_name.encode()
        if delta.seq in self.refuse:
            raise BrokerUnavailableError("Kafka does not answer")
        self.taken.append(delta.seq)


def counted(metrics: MetricsRegistry, *versions: str) -> None:
    for version in versions:
        metrics.counters_for("m", version).ok += 1


def sender() -> tuple[MetricsRegistry, DeltaSender, Any]:
    metrics = MetricsRegistry("w", "boot", datetime.now(UTC))
    return metrics, DeltaSender(metrics, "metrics"), Producer()


async def test_a_cancelled_sending_is_finished_by_the_next() -> None:
    """As at a worker's end, when its first deltas still wait for the topic's metadata."""
    metrics, deltas, producer = sender()
    counted(metrics, "v1", "v2")
    sending = asyncio.create_task(deltas.send(cast("BatchProducer", producer)))
    await producer.asked.wait()
    sending.cancel()
    await asyncio.wait([sending])
    counted(metrics, "v1")
    producer.gate.set()
    await deltas.send(cast("BatchProducer", producer))
    assert producer.taken == [0, 1, 2]


async def test_what_the_producer_refuses_is_a_gap() -> None:
    """The deltas after it are sent."""
    metrics, deltas, producer = sender()
    producer.gate.set()
    producer.refuse = {0}
    counted(metrics, "v1", "v2")
    await deltas.send(cast("BatchProducer", producer))
    assert producer.taken == [1]
