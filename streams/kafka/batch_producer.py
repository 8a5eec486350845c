"""The producer of the batched transport: idempotent, with whole batches, acknowledged by all in-sync replicas.

Part of `streams/kafka/transport.py`; it overrides private methods of Faust and aiokafka.
"""

import asyncio
import math
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import structlog
from aiokafka.producer.message_accumulator import BatchBuilder
from faust.transport.drivers import aiokafka as driver

from streams.kafka.errors import kafka_errors
from streams.kafka.offset_tracker import Row

REQUEST_TIMEOUT_SECONDS = 30
# Below a topic's default limit of 1,048,588 bytes.
MAX_BATCH_BYTES = 960 * 1024
MAX_REQUEST_BYTES = 8 * 1024 * 1024
# How soon new partitions are seen.
METADATA_SECONDS = 30
_LOOK_AGAIN_SECONDS = 1.0

log = structlog.get_logger("streams.partitions")


class OutputBatch(BatchBuilder):  # type: ignore[misc]  # aiokafka is untyped
    """The records of one partition, encoded as they are appended.

    The batch is full at `max_bytes`; it accepts a first record of any size.
    """

    def __init__(self, max_bytes: int = MAX_BATCH_BYTES) -> None:
        super().__init__(min(max_bytes, MAX_BATCH_BYTES), 0)

    def add(
        self, timestamp_ms: int, key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes]]
    ) -> bool:
        """Append a record; returns False when the batch is full, but never for its first record."""
        return self.add_rows([(timestamp_ms, key, value, headers)]) == 1

    def add_rows(self, rows: Iterable[Row]) -> int:
        """Append rows until the batch is full; returns their number, which is at least 1 for the first ones.

        A call for each row would take 0.25 µs more for it.
        """
        if self._closed:
            return 0
        append = self._builder.append
        before: int = self.record_count()
        offset = before
        try:
            for timestamp_ms, key, value, headers in rows:
                if append(offset, timestamp_ms, key, value, headers) is None:
                    self.close()
                    break
                offset += 1
        finally:
            self._relative_offset = offset
        return offset - before

    def _set_producer_state(self, producer_id: int, producer_epoch: int, base_sequence: int) -> None:
        # The sender has counted the batch's records, so a later record would break the sequence numbers.
        self.close()
        super()._set_producer_state(producer_id, producer_epoch, base_sequence)


class BatchProducer(driver.Producer):
    """Faust's producer, idempotent, with aiokafka's batches beside its single sends."""

    # The SliceTransport, whose module imports this one.
    transport: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._turns: defaultdict[tuple[str, int], asyncio.Lock] = defaultdict(asyncio.Lock)
        # The last batch of each partition, until it is delivered.
        self._last: dict[tuple[str, int], tuple[OutputBatch, asyncio.Future[Any]]] = {}
        self._looked_at = -math.inf
        self._short_topics: dict[str, int] = {}

    def _settings_extra(self) -> Mapping[str, Any]:
        return {
            "acks": "all",
            "enable_idempotence": True,
            "max_batch_size": MAX_BATCH_BYTES,
            "max_request_size": MAX_REQUEST_BYTES,
            "metadata_max_age_ms": METADATA_SECONDS * 1000,
            "request_timeout_ms": REQUEST_TIMEOUT_SECONDS * 1000,
        }

    def _settings_auth(self) -> Mapping[str, Any]:
        security: Mapping[str, Any] = self.transport.options.security
        return security

    def _new_producer(self, transactional_id: str | None = None) -> Any:
        producer = super()._new_producer(transactional_id)
        self.transport.watch.follow(producer.client)
        return producer

    @property
    def kafka(self) -> Any:
        """The aiokafka producer."""
        return self._ensure_producer()

    async def send_record(
        self,
        topic: str,
        value: bytes,
        *,
        key: bytes | None,
        headers: Sequence[tuple[str, bytes]] = (),
    ) -> asyncio.Future[Any]:
        """Hand one record to the sender; the returned future is done when the broker has it.

        Raises the errors of `kafka_errors`.
        """
        with kafka_errors(self.transport.options.bootstrap, topic):
            delivery: asyncio.Future[Any] = await self.kafka.send(
                topic, value=value, key=key, headers=list(headers)
            )
        return delivery

    async def deliver_record(
        self,
        topic: str,
        value: bytes,
        *,
        key: bytes | None,
        headers: Sequence[tuple[str, bytes]] = (),
    ) -> None:
        """Send one record and wait until the broker has it; raises the errors of `kafka_errors`."""
        delivery = await self.send_record(topic, value, key=key, headers=headers)
        with kafka_errors(self.transport.options.bootstrap, topic):
            await delivery

    async def deliver_headers(self, topic: str, headers: list[tuple[str, bytes]]) -> None:
        """Send a record without key and value, which aiokafka's `send` refuses, to partition 0, and wait for it.

        Raises the errors of `kafka_errors`.
        """
        batch = OutputBatch()
        batch.add(int(time.time() * 1000), None, None, headers)
        with kafka_errors(self.transport.options.bootstrap, topic):
            await (await self.send_batch(batch, topic, 0))

    def join(self, rows: Sequence[Row], topic: str, partition: int) -> tuple[int, asyncio.Future[Any] | None]:
        """Append rows to the partition's last batch, while it is still open; returns their number and their delivery.

        With a batch for each small slice, the producer would send one request for each. It sends one request at a
        time for each partition, so rows would wait behind many small batches.
        """
        last = self._last.get((topic, partition))
        if last is None:
            return 0, None
        batch, delivered = last
        count = batch.add_rows(rows)
        return count, asyncio.shield(delivered) if count else None

    async def send_batch(self, batch: OutputBatch, topic: str, partition: int) -> asyncio.Future[Any]:
        """Hand a batch to the sender; the returned future is done when the broker has it.

        A batch for a partition that the topic does not have goes to one that it has: requests may have more partitions
        than responses and dead letters, while somebody adds some. All of one partition go to one.
        """
        place = topic, await self._existing(topic, partition)
        # One at a time per partition: for each batch queued before it, aiokafka subtracts the elapsed time from a
        # batch's timeout once more, so a stall of seconds would exceed the timeout.
        async with self._turns[place]:
            delivered: asyncio.Future[Any] = await self.kafka.send_batch(batch, topic, partition=place[1])
            self._last[place] = batch, delivered
            delivered.add_done_callback(lambda _: self._forget(place, batch))
        # A caller that is cancelled must not cancel the delivery for the callers of `join`.
        return asyncio.shield(delivered)

    async def _existing(self, topic: str, partition: int) -> int:
        """The partition, or its remainder by the number of partitions of a topic that has fewer."""
        count = len(await self.kafka.partitions_for(topic))
        if partition >= count and time.monotonic() - self._looked_at > _LOOK_AGAIN_SECONDS:
            await self.kafka.client.force_metadata_update()
            self._looked_at = time.monotonic()
            count = len(await self.kafka.partitions_for(topic))
        if partition < count:
            return partition
        if self._short_topics.get(topic) != count:
            self._short_topics[topic] = count
            log.warning(
                "topic has fewer partitions than its requests; records go to others of its partitions",
                topic=topic,
                partitions=count,
                wanted=partition + 1,
                advice="`headrace init --partitions N` with the number of partitions of the requests adds them",
            )
        return partition % count

    def _forget(self, place: tuple[str, int], batch: OutputBatch) -> None:
        if place in self._last and self._last[place][0] is batch:
            del self._last[place]
