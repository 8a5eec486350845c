"""Adds up the workers' metrics deltas in windows in PostgreSQL.

Each delta counts once, even when it is read again: the windows and the watermarks of the deltas in them change in one
transaction. A slice is acknowledged after that. A record that is not a delta is counted and skipped. While
PostgreSQL is unavailable the deltas wait in Kafka. Deltas that were added are passed on to the alert watch.
"""

import structlog

from registry.metric_windows import MetricWindows
from registry.retry import until_reachable
from schemas.events import MetricsDelta
from schemas.windows import read_delta
from streams.kafka.offset_tracker import Slice
from streams.monitoring.watch import AlertWatch

log = structlog.get_logger()


class Monitor:
    """Processes slices of `predict-metrics`; `attempts` counts the calls to PostgreSQL, for a watchdog."""

    def __init__(self, windows: MetricWindows, watch: AlertWatch) -> None:
        self._windows = windows
        self._watch = watch
        self._additions = 0
        self.unreadable = 0

    @property
    def attempts(self) -> int:
        return self._additions + self._watch.attempts

    async def process(self, handled: Slice) -> None:
        """Add the deltas of a slice to their windows; returns when PostgreSQL has committed them."""
        topic, partition = handled.partition
        deltas = self._read(handled)

        async def add() -> list[MetricsDelta]:
            self._additions += 1
            return await self._windows.add(topic, partition, deltas)

        if deltas:
            async with self._watch.turn:
                await self._watch.begin({delta.model_name for delta in deltas})
                self._watch.observe(partition, await until_reachable(add, waiting="metrics"))

    def _read(self, handled: Slice) -> list[MetricsDelta]:
        deltas = []
        for record in handled.records:
            try:
                deltas.append(read_delta(record.value))
            except ValueError as error:
                self.unreadable += 1
                log.warning(
                    "record is not a metrics delta",
                    partition=handled.partition,
                    offset=record.offset,
                    reason=str(error).partition("\n")[0],
                )
        return deltas
