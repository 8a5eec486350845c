"""Adds up the workers' metrics deltas in windows in PostgreSQL.

Each delta counts once, even when it is read again: the windows and the watermarks of the deltas in them change in one
transaction. A slice is acknowledged after that. A record that is not a delta, or whose values PostgreSQL refuses, is
counted and skipped. A delta of a model that is not registered counts under the model name "": anybody may write to the
topic, and names that are made up must not create windows. While PostgreSQL is unavailable the deltas wait in Kafka.
Deltas that were added are passed on to the alert watch.
"""

from collections.abc import Collection, Sequence
from functools import partial
from typing import Protocol

import structlog

from registry.metric_windows import MetricWindows
from registry.retry import store_accepted, until_reachable
from schemas.errors import DataRefusedError
from schemas.events import MetricsDelta
from schemas.windows import read_delta
from streams.kafka.offset_tracker import Slice
from streams.monitoring.watch import AlertWatch

log = structlog.get_logger()


class RegisteredModels(Protocol):
    """Which models the registry has; see streams/monitoring/followed_models.py."""

    async def unregistered(self, model_names: Collection[str]) -> Collection[str]: ...


class Monitor:
    """Processes slices of `predict-metrics`; `attempts` counts the calls to PostgreSQL, for a watchdog."""

    def __init__(self, windows: MetricWindows, watch: AlertWatch, registered: RegisteredModels) -> None:
        self._windows = windows
        self._registered = registered
        self._watch = watch
        self._additions = 0
        self.unreadable = 0

    @property
    def attempts(self) -> int:
        return self._additions + self._watch.attempts

    async def process(self, handled: Slice) -> None:
        """Add the deltas of a slice to their windows; returns when PostgreSQL has committed them."""
        deltas = self._read(handled)
        if not deltas:
            return
        deltas = await self._by_registered_model(deltas)
        async with self._watch.turn:
            await self._watch.begin({delta.model_name for delta in deltas})
            added = await store_accepted(
                partial(self._add, handled), deltas, refuse=partial(self._refuse, handled)
            )
            self._watch.observe(handled.partition.partition, [delta for part in added for delta in part])

    async def _add(self, handled: Slice, deltas: Sequence[MetricsDelta]) -> list[MetricsDelta]:
        async def add() -> list[MetricsDelta]:
            self._additions += 1
            return await self._windows.add(*handled.partition, deltas)

        return await until_reachable(add, waiting="metrics")

    async def _by_registered_model(self, deltas: Sequence[MetricsDelta]) -> list[MetricsDelta]:
        names = {delta.model_name for delta in deltas}

        async def unregistered() -> Collection[str]:
            self._additions += 1
            return await self._registered.unregistered(names)

        unknown = await until_reachable(unregistered, waiting="metrics")
        return [
            delta.model_copy(update={"model_name": "", "model_version": ""})
            if delta.model_name in unknown
            else delta
            for delta in deltas
        ]

    def _read(self, handled: Slice) -> list[MetricsDelta]:
        deltas = []
        wrong = 0
        for record in handled.records:
            try:
                deltas.append(read_delta(record.value, record.timestamp))
            except ValueError as error:
                if not wrong:
                    offset, reason = record.offset, str(error).partition("\n")[0]
                wrong += 1
        if wrong:
            self._skipped(handled, wrong, reason, first_offset=offset)
        return deltas

    def _refuse(self, handled: Slice, delta: MetricsDelta, error: DataRefusedError) -> None:
        self._skipped(handled, 1, str(error), worker=delta.worker, seq=delta.seq)

    def _skipped(self, handled: Slice, records: int, reason: str, **place: object) -> None:
        self.unreadable += records
        log.warning(
            "records are not metrics deltas",
            records=records,
            partition=handled.partition,
            reason=reason,
            **place,
        )
