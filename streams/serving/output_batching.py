"""Gathering rows into Kafka batches, each as full as possible."""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from streams.kafka.batch_producer import OutputBatch
from streams.kafka.offset_tracker import Row
from streams.serving.ports import Output


@dataclass(frozen=True, slots=True)
class OutputTopic:
    """A topic for output; `max_bytes` is the largest batch that it accepts (`max.message.bytes`)."""

    name: str
    max_bytes: int


class OutputBatcher:
    """Batches rows for one partition.

    A row that is larger than the topic accepts is sent as the first of `reductions` that fits returns it, or as
    the last one does. The broker would refuse the whole row, the process would end, and the record would be
    fetched again.
    """

    def __init__(
        self,
        output: Output,
        topic: OutputTopic,
        partition: int,
        reductions: Sequence[Callable[[Row], Row]],
    ) -> None:
        self._output = output
        self._topic = topic
        self._partition = partition
        self._reductions = reductions
        self._rows: list[Row] = []
        self._deliveries: list[asyncio.Future[Any]] = []

    def add(self, rows: Iterable[Row]) -> None:
        """Gather rows for the next `flush`."""
        self._rows += rows

    @property
    def has_rows(self) -> bool:
        """Whether rows wait for a `flush`."""
        return bool(self._rows)

    async def flush(self) -> asyncio.Future[Any] | None:
        """Hand the gathered rows to the sender; returns the delivery of the last one, which is delivered last."""
        rows, self._rows = self._rows, []
        joined, delivered = self._output.join(rows, self._topic.name, self._partition)
        if delivered is not None:
            self._deliveries.append(delivered)
        for batch in self._batches(rows[joined:]):
            self._deliveries.append(await self._output.send_batch(batch, self._topic.name, self._partition))
        return self._deliveries[-1] if rows else None

    def take_deliveries(self) -> list[asyncio.Future[Any]]:
        """For each batch flushed since the last time, a future that is done when the broker has it."""
        deliveries, self._deliveries = self._deliveries, []
        return deliveries

    def _batches(self, rows: Sequence[Row]) -> Iterator[OutputBatch]:
        limit = self._topic.max_bytes
        at = 0
        while at < len(rows):
            batch = OutputBatch(limit)
            batch.add(*rows[at])
            # A batch takes its first row whatever its size.
            for reduce in self._reductions:
                if batch.size() <= limit:
                    break
                batch = OutputBatch(limit)
                batch.add(*reduce(rows[at]))
            at += 1
            at += batch.add_rows(islice(rows, at, None))
            yield batch
