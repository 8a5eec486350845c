"""Adding up the workers' metrics: deltas in, windows in PostgreSQL.

Each delta counts once, however often it is read: the windows and the marks of what they hold change in
one transaction. Only then is a slice acknowledged. A record that is no delta is counted and left out.
While PostgreSQL is away the deltas wait in Kafka. What was added is shown to what watches for alerts.
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
    """Adds slices of `predict-metrics` up; `attempts` counts the transactions tried, for a watchdog."""

    def __init__(self, windows: MetricWindows, watch: AlertWatch) -> None:
        self._windows = windows
        self._watch = watch
        self._additions = 0
        self.unreadable = 0

    @property
    def attempts(self) -> int:
        return self._additions + self._watch.attempts

    async def process(self, handled: Slice) -> None:
        """Add the deltas of a slice to their windows; returns when PostgreSQL has them."""
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
                    "a record is no metrics delta",
                    partition=handled.partition,
                    offset=record.offset,
                    reason=str(error).partition("\n")[0],
                )
        return deltas
