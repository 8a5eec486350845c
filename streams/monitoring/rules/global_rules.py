"""PURE. The global rules: the consumer group's lag, the workers, and the completeness of the metrics.

They read samples that the monitor takes every few seconds. Times are Unix seconds.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from schemas.alert_rules import GLOBAL, ConsumerLag, DeltaLoss, GlobalRules, StaleWorkers
from schemas.events import MAX_ALERT_WORKERS
from streams.kafka.offset_tracker import GroupOffsets
from streams.monitoring.rules.evaluation import RESOLVE_SHARE, AlertKey, Causes, Evaluation

SAMPLES_SECONDS = 900.0
"""Samples are kept this long, so it is also the longest lag that can be measured."""
_SHRINKS_OVER_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """The last heartbeat of a worker.

    `age_seconds` is the time since then; `epoch` is the registry epoch that the worker served; `behind` are the
    models that it served by an older route.
    """

    worker: str
    boot_id: str
    age_seconds: float
    epoch: int
    behind: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Sample:
    """The state of the whole system at the Unix time `at`.

    `missing_deltas` counts metrics deltas that were sent and have not been read; some may still arrive.
    """

    at: float
    offsets: Mapping[int, GroupOffsets]
    workers: Sequence[WorkerStatus]
    epoch: int
    missing_deltas: int


class GlobalView:
    """The samples of the last 15 minutes."""

    def __init__(self) -> None:
        self._samples: deque[Sample] = deque()
        self._behind_since: dict[tuple[str, str, str], float] = {}

    def add(self, sample: Sample) -> None:
        """Add a sample; samples are added in the order of their times."""
        self._samples.append(sample)
        while self._samples[0].at < sample.at - SAMPLES_SECONDS:
            self._samples.popleft()
        behind = {
            (status.worker, status.boot_id, model_name)
            for status in sample.workers
            for model_name in status.behind
        }
        self._behind_since = {each: self._behind_since.get(each, sample.at) for each in behind}

    def evaluate(self, rules: GlobalRules) -> dict[AlertKey, Evaluation]:
        """The evaluations of the enabled rules, as of the last sample."""
        if not self._samples:
            return {}
        evaluations = {}
        if rules.consumer_lag.enabled:
            evaluations["consumer_lag"] = self._consumer_lag(rules.consumer_lag)
        if rules.stale_workers.enabled:
            evaluations["stale_workers"] = self._stale_workers(rules.stale_workers)
        if rules.delta_loss.enabled:
            evaluations["delta_loss"] = self._delta_loss(rules.delta_loss)
        return {AlertKey(GLOBAL, "", rule): evaluation for rule, evaluation in evaluations.items()}

    def _consumer_lag(self, rule: ConsumerLag) -> Evaluation:
        last = self._samples[-1]
        ages = {
            partition: self._age_seconds(partition, offsets) for partition, offsets in last.offsets.items()
        }
        old = [partition for partition, age in ages.items() if age >= rule.age_seconds]
        oldest = max(ages.values(), default=0.0)
        return Evaluation(
            value=oldest,
            threshold=rule.age_seconds,
            window_seconds=_SHRINKS_OVER_SECONDS,
            breached=any(not self._shrinks(partition) for partition in old),
            cleared=oldest <= RESOLVE_SHARE * rule.age_seconds,
        )

    def _age_seconds(self, partition: int, offsets: GroupOffsets) -> float:
        """A lower bound of the age of the first unanswered request, in seconds."""
        if offsets.committed >= offsets.end:
            return 0.0
        written_by = self._samples[-1].at
        for sample in reversed(self._samples):
            seen = sample.offsets.get(partition)
            if seen is None or seen.end <= offsets.committed:
                # The request was written after this sample and before the next one.
                break
            written_by = sample.at
        return self._samples[-1].at - written_by

    def _shrinks(self, partition: int) -> bool:
        """True when the backlog of the partition is smaller than 15 s ago: then it is being worked off."""
        last = self._samples[-1]
        before = next(
            (
                sample.offsets[partition].lag
                for sample in reversed(self._samples)
                if sample.at <= last.at - _SHRINKS_OVER_SECONDS and partition in sample.offsets
            ),
            None,
        )
        return before is None or last.offsets[partition].lag < before

    def _stale_workers(self, rule: StaleWorkers) -> Evaluation:
        last = self._samples[-1]
        alive = {status.worker for status in last.workers if status.age_seconds < rule.silent_seconds}
        earlier_epochs = [
            sample.epoch for sample in self._samples if sample.at <= last.at - rule.behind_seconds
        ]
        # A registry that was restored from a backup has a lower epoch than before.
        due_epoch = min(max(earlier_epochs, default=0), last.epoch)
        stale = set()
        for status in last.workers:
            silent = status.age_seconds >= rule.silent_seconds
            if silent and (status.worker in alive or status.age_seconds >= rule.forget_seconds):
                # The worker was restarted under the same name, or is gone for good.
                continue
            loading = any(
                last.at - since >= rule.loading_seconds
                for (worker, boot_id, _), since in self._behind_since.items()
                if (worker, boot_id) == (status.worker, status.boot_id)
            )
            if silent or status.epoch < due_epoch or loading:
                stale.add((status.worker, status.boot_id))
        return Evaluation(
            value=float(len(stale)),
            threshold=float(rule.workers),
            window_seconds=rule.silent_seconds,
            breached=len(stale) >= rule.workers,
            cleared=len(stale) <= RESOLVE_SHARE * rule.workers,
            causes=Causes({}, sorted({worker for worker, _ in stale})[:MAX_ALERT_WORKERS]),
        )

    def _delta_loss(self, rule: DeltaLoss) -> Evaluation:
        """The increase of the settled count of missing deltas within the window.

        Some missing deltas are still on their way. The minimum over `settle_seconds` counts only those that
        never arrive.
        """
        now = self._samples[-1].at
        recent = [sample for sample in self._samples if sample.at > now - rule.settle_seconds]
        start = now - rule.window_seconds
        before = [sample for sample in self._samples if start - rule.settle_seconds < sample.at <= start]
        if self._samples[0].at > start - rule.settle_seconds:
            # Deltas that were missing before the monitor's first sample do not count.
            before = [
                sample for sample in self._samples if sample.at <= self._samples[0].at + rule.settle_seconds
            ]
        settled = min(sample.missing_deltas for sample in recent)
        missing = max(0, settled - min(sample.missing_deltas for sample in before))
        has_settled = now - self._samples[0].at >= 2 * rule.settle_seconds
        return Evaluation(
            value=float(missing),
            threshold=float(rule.deltas),
            window_seconds=rule.window_seconds,
            breached=has_settled and missing >= rule.deltas,
            cleared=missing <= RESOLVE_SHARE * rule.deltas,
        )
