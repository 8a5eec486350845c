"""PURE. The rules of what all models share: the group's lag, the workers, the metrics themselves.

Samples are taken now and then; times are Unix seconds.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from schemas.alert_rules import GLOBAL, ConsumerLag, DeltaLoss, GlobalRules, StaleWorkers
from streams.monitoring.evaluation import AlertName, Evaluation

SAMPLES_SECONDS = 900.0
"""So long are samples kept, which is also the longest lag that is told."""
_SHRINKS_OVER_SECONDS = 15.0
_RESOLVE_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Offsets:
    """A partition of the requests: up to where they are answered, and up to where they go."""

    committed: int
    end: int

    @property
    def lag(self) -> int:
        return self.end - self.committed


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """A worker's last sign of life: how long ago, how far it had followed, and which models were behind."""

    worker: str
    boot_id: str
    age_seconds: float
    epoch: int
    behind: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Sample:
    """What was seen at one time; `lost` are the deltas that had not come by then."""

    at: float
    offsets: Mapping[int, Offsets]
    workers: Sequence[WorkerStatus]
    epoch: int
    lost: int


class GlobalView:
    """The samples of the last quarter of an hour."""

    def __init__(self) -> None:
        self._samples: deque[Sample] = deque()
        self._behind_since: dict[tuple[str, str, str], float] = {}

    def add(self, sample: Sample) -> None:
        """Note a sample; they come in their order."""
        self._samples.append(sample)
        while self._samples[0].at < sample.at - SAMPLES_SECONDS:
            self._samples.popleft()
        behind = {
            (sign.worker, sign.boot_id, model_name) for sign in sample.workers for model_name in sign.behind
        }
        self._behind_since = {each: self._behind_since.get(each, sample.at) for each in behind}

    def evaluate(self, rules: GlobalRules) -> dict[AlertName, Evaluation]:
        """The evaluations of the rules that are enabled, as of the last sample."""
        if not self._samples:
            return {}
        evaluations = {}
        if rules.consumer_lag.enabled:
            evaluations["consumer_lag"] = self._consumer_lag(rules.consumer_lag)
        if rules.stale_workers.enabled:
            evaluations["stale_workers"] = self._stale_workers(rules.stale_workers)
        if rules.delta_loss.enabled:
            evaluations["delta_loss"] = self._delta_loss(rules.delta_loss)
        return {(GLOBAL, "", rule): evaluation for rule, evaluation in evaluations.items()}

    def _consumer_lag(self, rule: ConsumerLag) -> Evaluation:
        last = self._samples[-1]
        ages = {partition: self._age(partition, offsets) for partition, offsets in last.offsets.items()}
        old = [partition for partition, age in ages.items() if age >= rule.age_seconds]
        oldest = max(ages.values(), default=0.0)
        return Evaluation(
            value=oldest,
            threshold=rule.age_seconds,
            window_seconds=_SHRINKS_OVER_SECONDS,
            breached=any(not self._shrinks(partition) for partition in old),
            cleared=oldest <= _RESOLVE_SHARE * rule.age_seconds,
        )

    def _age(self, partition: int, offsets: Offsets) -> float:
        """How long ago the first request that is not answered was written, at least, in seconds."""
        if offsets.committed >= offsets.end:
            return 0.0
        written_by = self._samples[-1].at
        for sample in reversed(self._samples):
            seen = sample.offsets.get(partition)
            if seen is None or seen.end <= offsets.committed:
                # Written after this sample, and by the next one.
                break
            written_by = sample.at
        return self._samples[-1].at - written_by

    def _shrinks(self, partition: int) -> bool:
        """Whether its backlog is being worked off, which needs nobody's help."""
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
        alive = {sign.worker for sign in last.workers if sign.age_seconds < rule.silent_seconds}
        seen_long_ago = [
            sample.epoch for sample in self._samples if sample.at <= last.at - rule.behind_seconds
        ]
        # A registry that was restored from a backup went back.
        due = min(max(seen_long_ago, default=0), last.epoch)
        stale = set()
        for sign in last.workers:
            silent = sign.age_seconds >= rule.silent_seconds
            if silent and (sign.worker in alive or sign.age_seconds >= rule.forget_seconds):
                # It was started anew, or is gone for good.
                continue
            loading = any(
                last.at - since >= rule.loading_seconds
                for (worker, boot_id, _), since in self._behind_since.items()
                if (worker, boot_id) == (sign.worker, sign.boot_id)
            )
            if silent or sign.epoch < due or loading:
                stale.add((sign.worker, sign.boot_id))
        return Evaluation(
            value=float(len(stale)),
            threshold=float(rule.workers),
            window_seconds=rule.silent_seconds,
            breached=len(stale) >= rule.workers,
            cleared=len(stale) <= _RESOLVE_SHARE * rule.workers,
        )

    def _delta_loss(self, rule: DeltaLoss) -> Evaluation:
        """Of what is missing, some is on its way: the least that was missing over a while never comes."""
        now = self._samples[-1].at
        known = [sample for sample in self._samples if sample.at > now - rule.settle_seconds]
        start = now - rule.window_seconds
        before = [sample for sample in self._samples if start - rule.settle_seconds < sample.at <= start]
        if self._samples[0].at > start - rule.settle_seconds:
            # The first sample of a monitor says what was lost before it looked.
            before = [
                sample for sample in self._samples if sample.at <= self._samples[0].at + rule.settle_seconds
            ]
        settled = min(sample.lost for sample in known)
        lost = max(0, settled - min(sample.lost for sample in before))
        whole = now - self._samples[0].at >= 2 * rule.settle_seconds
        return Evaluation(
            value=float(lost),
            threshold=float(rule.deltas),
            window_seconds=rule.window_seconds,
            breached=whole and lost >= rule.deltas,
            cleared=lost <= _RESOLVE_SHARE * rule.deltas,
        )
