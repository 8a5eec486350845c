# part of the batched transport, which rests on private names
"""The producing side of the batched transport: whole batches, idempotently, to all in-sync replicas."""

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from faust.transport.drivers import aiokafka as driver

from streams.ledger import Record

REQUEST_TIMEOUT_SECONDS = 30
# Below what a topic takes by default, 1,048,588 bytes.
MAX_BATCH_BYTES = 960 * 1024
MAX_REQUEST_BYTES = 8 * 1024 * 1024


class OutputBatch(BatchBuilder):  # type: ignore[misc]  # aiokafka is untyped
    """Records for one partition, built into the bytes that are sent.

    It is full at `max_bytes`; its first record is taken whatever its size.
    """

    def __init__(self, max_bytes: int = MAX_BATCH_BYTES) -> None:
        super().__init__(min(max_bytes, MAX_BATCH_BYTES), 0)

    def add(
        self, timestamp_ms: int, key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes]]
    ) -> bool:
        """Append a record; False when the batch is full, which it never is for its first record.

        `append` does the same, with serializers and keyword arguments that cost as much again.
        """
        if self._builder.append(self._relative_offset, timestamp_ms, key, value, headers) is None:
            self.close()
            return False
        self._relative_offset += 1
        return True

    def records(self) -> list[Record]:
        """What was added; the batch is closed by it."""
        stored = MemoryRecords(bytes(self._build()))
        return list(stored.next_batch()) if stored.has_next() else []


class BatchProducer(driver.Producer):
    """Faust's producer, idempotent, with aiokafka's batches beside its single sends."""

    # The SliceTransport, whose module imports this one.
    transport: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._turns: defaultdict[tuple[str, int], asyncio.Lock] = defaultdict(asyncio.Lock)

    def _settings_extra(self) -> Mapping[str, Any]:
        return {
            "acks": "all",
            "enable_idempotence": True,
            "max_batch_size": MAX_BATCH_BYTES,
            "max_request_size": MAX_REQUEST_BYTES,
            "request_timeout_ms": REQUEST_TIMEOUT_SECONDS * 1000,
        }

    def _settings_auth(self) -> Mapping[str, Any]:
        security: Mapping[str, Any] = self.transport.options.security
        return security

    @property
    def kafka(self) -> Any:
        """The aiokafka producer."""
        return self._ensure_producer()

    async def send_batch(self, batch: OutputBatch, topic: str, partition: int) -> asyncio.Future[Any]:
        """Hand a batch to the sender; the future is done when the broker has it."""
        batch.close()
        # One at a time for each partition: aiokafka takes off the timeout of a batch the time since its
        # beginning again for each one that went before it, so that a stall of seconds would seem to be
        # longer than the timeout.
        async with self._turns[topic, partition]:
            delivered: asyncio.Future[Any] = await self.kafka.send_batch(batch, topic, partition=partition)
        return delivered
