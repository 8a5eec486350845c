"""PURE: what a worker reports of itself, and when it is live."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

HEARTBEAT_TIMEOUT_SECONDS = 5.0
"""A worker whose last heartbeat is older than this is not live."""


@dataclass(frozen=True, slots=True)
class WorkerHeartbeat:
    """What one worker reports of itself.

    All later responses of the worker use the registry as of `epoch` or later, except for the models in `behind`,
    which maps each to the reason why this worker keeps an older route. `older_revisions` has the revision of that route;
    a model in `behind` without one is served by the newest route, in which not every version is loaded. `unloadable` has,
    by model, the versions that this worker cannot load with their reasons: those that the newest route needs, and the
    rollback target.
    """

    worker: str
    boot_id: str
    epoch: int
    behind: Mapping[str, str] = field(default_factory=dict)
    older_revisions: Mapping[str, int] = field(default_factory=dict)
    unloadable: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def serves(self, model_name: str, epoch: int) -> bool:
        """True when this worker serves `epoch`, or a later one, of the model."""
        return self.epoch >= epoch and model_name not in self.behind

    def unloadable_target(self, model_name: str) -> Mapping[str, str]:
        """The rollback target of a model whose newest route this worker serves, with the reason why it is not loaded."""
        return {} if model_name in self.behind else self.unloadable.get(model_name, {})


def unloadable_everywhere(reports: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """The versions that each of these live workers reports as unloadable, with the reason of the first one."""
    if not reports:
        return {}
    return {
        version: reason
        for version, reason in reports[0].items()
        if all(version in report for report in reports)
    }
