"""The ports of the request path: what it asks of the cache, the tables, the Kafka output and the tracer."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from schemas.errors import AnswerError, MalformedRecordError
from streams.kafka.batch_producer import OutputBatch
from streams.kafka.offset_tracker import Row, Slice
from streams.serving.route_table import ServingTable


class Cache(Protocol):
    """Predictions by key. It never raises: an entry that is missing or out of reach is a miss."""

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The entry of each key, in order; None for a miss."""
        ...

    async def set_many(self, items: Sequence[tuple[bytes, bytes]], ttl_seconds: int) -> None:
        """Keep entries for that long."""
        ...


class Tables(Protocol):
    """The source of serving tables: `active_tables.ActiveTables`."""

    def in_use(self) -> AbstractContextManager[ServingTable]:
        """The current table, which stays in use until the block ends."""
        ...


class Output(Protocol):
    """Sends batches: the producer of the Kafka transport.

    A partition that the topic does not have stands for the one of the remainder by the topic's number of partitions.
    """

    def join(self, rows: Sequence[Row], topic: str, partition: int) -> tuple[int, asyncio.Future[Any] | None]:
        """Add rows to a batch that waits to be sent; returns how many it took, and their delivery."""
        ...

    async def send_batch(self, batch: OutputBatch, topic: str, partition: int) -> asyncio.Future[Any]:
        """Hand a batch to the sender; the future is done when the broker has it."""
        ...


OnFailure = Callable[[AnswerError | MalformedRecordError], None]
"""Called for each record that gets no predictions."""


class SliceTracer(Protocol):
    """Traces slices, where tracing is on."""

    def slice(self, handled: Slice) -> AbstractContextManager[OnFailure | None]:
        """Trace the block; yields the callback for failed records, None where the slice is not sampled."""
        ...
