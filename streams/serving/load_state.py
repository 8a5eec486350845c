"""PURE: the state of loading one part of a model after the model changed.

A model has two parts. `ROUTE` are the versions with traffic: the model is served by the registry's newest route as soon
as all of them are loaded, and until then an older route stays. `ROLLBACK_TARGET` is a version without traffic: whether it
is loaded decides nothing about the route. A load that fails is tried again, mostly after `RETRY_SECONDS`, and that of a
rollback target after `TARGET_RETRY_SECONDS`.
A newer revision ends a load and a wait alike, because only the newest one is worth loading for.

Times are seconds of any one monotonic clock, passed as `now`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from registry.snapshot import RegisteredModel

RETRY_SECONDS = 10.0
TARGET_RETRY_SECONDS = 60.0
LOADING_REASON = "its versions are being loaded"


class ModelPart(StrEnum):
    """What of a model is loaded, and waited for, by itself."""

    ROUTE = "versions with traffic"
    ROLLBACK_TARGET = "rollback target"


class LoadPhase(StrEnum):
    """How far a worker is with a part of a model."""

    CURRENT = "current"
    LOADING = "loading"
    FAILED = "failed"


class LoadEvent(StrEnum):
    """What changes the phase. The revisions are newer ones, with or without all of their versions loaded."""

    REVISION_READY = "loaded revision"
    REVISION_UNLOADED = "unloaded revision"
    LOADED = "load succeeded"
    LOAD_FAILED = "load failed"
    RETRY_DUE = "retry due"


TRANSITIONS: Mapping[tuple[LoadPhase, LoadEvent], LoadPhase] = {
    (LoadPhase.CURRENT, LoadEvent.REVISION_READY): LoadPhase.CURRENT,
    (LoadPhase.CURRENT, LoadEvent.REVISION_UNLOADED): LoadPhase.LOADING,
    (LoadPhase.LOADING, LoadEvent.REVISION_READY): LoadPhase.CURRENT,
    (LoadPhase.LOADING, LoadEvent.REVISION_UNLOADED): LoadPhase.LOADING,
    (LoadPhase.LOADING, LoadEvent.LOADED): LoadPhase.CURRENT,
    (LoadPhase.LOADING, LoadEvent.LOAD_FAILED): LoadPhase.FAILED,
    (LoadPhase.FAILED, LoadEvent.REVISION_READY): LoadPhase.CURRENT,
    (LoadPhase.FAILED, LoadEvent.REVISION_UNLOADED): LoadPhase.LOADING,
    (LoadPhase.FAILED, LoadEvent.RETRY_DUE): LoadPhase.LOADING,
}
"""(phase, event) -> next phase. Other events do not happen in a phase."""


@dataclass(frozen=True, slots=True)
class ModelLoad:
    """The state of one load.

    `target` is the revision to be loaded; None when it is loaded. `failures` has the versions that cannot be loaded, each
    with the reason; a retry keeps those of the try before it. `retry_at` is when a failed load is due again.
    """

    phase: LoadPhase = LoadPhase.CURRENT
    target: RegisteredModel | None = None
    failures: Mapping[str, str] = field(default_factory=dict)
    retry_at: float = 0.0

    @property
    def reason(self) -> str:
        """Why the part is not loaded."""
        failed = "; ".join(f"{version} cannot be loaded: {why}" for version, why in self.failures.items())
        return failed or LOADING_REASON


CURRENT = ModelLoad()


def advance(
    load: ModelLoad,
    event: LoadEvent,
    *,
    target: RegisteredModel | None = None,
    failures: Mapping[str, str] | None = None,
    retry_seconds: float = RETRY_SECONDS,
    now: float = 0.0,
) -> ModelLoad:
    """The state after an event.

    REVISION_UNLOADED carries the `target`, LOAD_FAILED the `failures` and the time until the retry; LOAD_FAILED and
    RETRY_DUE carry `now`. Raises ValueError for an event that cannot happen in this phase.
    """
    phase = TRANSITIONS.get((load.phase, event))
    if phase is None or (event is LoadEvent.RETRY_DUE and not is_due(load, now)):
        raise ValueError(f"{event!r} cannot happen to {load}")
    if phase is LoadPhase.CURRENT:
        return CURRENT
    if phase is LoadPhase.FAILED:
        return replace(load, phase=phase, failures=failures or {}, retry_at=now + retry_seconds)
    if event is LoadEvent.RETRY_DUE:
        return replace(load, phase=phase, retry_at=0.0)
    return ModelLoad(phase, target)


def is_due(load: ModelLoad, now: float) -> bool:
    """True when a failed load is to be tried again."""
    return load.phase is LoadPhase.FAILED and now >= load.retry_at
