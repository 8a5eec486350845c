"""Consumers end in order while the broker is away."""

import asyncio
import logging

import pytest
from aiokafka import AIOKafkaConsumer

from deploy.local.kafka import Kafka
from streams.headrace_client.stopping import stop_consumer
from tests.support.deadline import DEADLINE_SECONDS
from tests.support.stack.services import MakeTopics


class Told(logging.Handler):
    """Waits for a message of aiokafka's."""

    def __init__(self, message: str) -> None:
        super().__init__()
        self._message = message
        self.heard = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        if record.msg.startswith(self._message):
            self.heard.set()


@pytest.mark.parametrize("cancelled", [False, True], ids=["stopped", "cancelled meanwhile"])
async def test_a_consumer_whose_fetch_has_failed_stops_as_any_other(
    topics: MakeTopics, own_kafka: Kafka, cancelled: bool
) -> None:
    """The task that stops it is cancelled only if the test cancels it, and no connection is left."""
    settings = await topics(1, kafka_bootstrap=own_kafka.bootstrap)
    consumer = AIOKafkaConsumer(settings.topic_responses, bootstrap_servers=own_kafka.bootstrap)
    await consumer.start()
    assert await consumer.seek_to_end()
    # Longer than the test: the fetch still waits when the consumer is stopped.
    consumer._fetcher._retry_backoff = 600.0
    failed = Told("Failed fetch messages")
    logger = logging.getLogger("aiokafka.consumer.fetcher")
    logger.addHandler(failed)
    try:
        await asyncio.to_thread(own_kafka.kill)
        async with asyncio.timeout(DEADLINE_SECONDS):
            await failed.heard.wait()
            stopping = asyncio.create_task(stop_consumer(consumer))
            await asyncio.sleep(0)
            if cancelled:
                stopping.cancel()
            await asyncio.wait([stopping])
    finally:
        logger.removeHandler(failed)
    assert stopping.cancelled() is cancelled
    assert cancelled or stopping.exception() is None
    assert consumer._client._conns == {}
