"""PURE: the state of loading one model's versions after its route changed.

A model is served by the registry's newest route as soon as every version that the route needs is loaded. Until then an
older route stays. A load that fails is tried again, mostly after `RETRY_SECONDS`. A newer revision ends a load and a wait
alike, because only the newest route is worth loading for.

Times are seconds of any one monotonic clock, passed as `now`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from registry.snapshot import RegisteredModel

RETRY_SECONDS = 10.0
LOADING_REASON = "its versions are being loaded"


class LoadPhase(StrEnum):
    """How far a worker is with a model."""

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
    """The state of one model's load.

    `target` is the revision to be served; None when it is served. `reason` says why an older route stays; a retry keeps
    the reason of the failure before it. `retry_at` is when a failed load is due again.
    """

    phase: LoadPhase = LoadPhase.CURRENT
    target: RegisteredModel | None = None
    reason: str = ""
    retry_at: float = 0.0


CURRENT = ModelLoad()


def advance(
    load: ModelLoad,
    event: LoadEvent,
    *,
    target: RegisteredModel | None = None,
    reason: str = "",
    retry_seconds: float = RETRY_SECONDS,
    now: float = 0.0,
) -> ModelLoad:
    """The state after an event.

    REVISION_UNLOADED carries the `target`, LOAD_FAILED the `reason` and the time until the retry; LOAD_FAILED and
    RETRY_DUE carry `now`. Raises ValueError for an event that cannot happen in this phase.
    """
    phase = TRANSITIONS.get((load.phase, event))
    if phase is None or (event is LoadEvent.RETRY_DUE and not is_due(load, now)):
        raise ValueError(f"{event!r} cannot happen to {load}")
    if phase is LoadPhase.CURRENT:
        return CURRENT
    if phase is LoadPhase.FAILED:
        return replace(load, phase=phase, reason=reason, retry_at=now + retry_seconds)
    if event is LoadEvent.RETRY_DUE:
        return replace(load, phase=phase, retry_at=0.0)
    return ModelLoad(phase, target, LOADING_REASON)


def is_due(load: ModelLoad, now: float) -> bool:
    """True when a failed load is to be tried again."""
    return load.phase is LoadPhase.FAILED and now >= load.retry_at
