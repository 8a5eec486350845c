"""PURE. What the page shows of workers: how fresh each is, what it cannot load, and by which routes they answer."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal

from registry.assignment import Change
from registry.routing import weights_of
from registry.snapshot import RegisteredModel
from registry.worker_heartbeat import HEARTBEAT_TIMEOUT_SECONDS, WorkerHeartbeat
from schemas.events import JsonObject
from schemas.models import Route

Seen = Sequence[tuple[WorkerHeartbeat, float]]
"""Heartbeats with their ages in seconds."""

# A worker without heartbeats counts as removed after this time, as for the rule `stale_workers`.
SILENT_SECONDS = 600.0
# After this time a silent worker is no news.
FADED_SECONDS = 60.0

_DIGEST = re.compile(r"\b([0-9a-f]{8})[0-9a-f]{24,}\b")


def workers_of(heartbeats: Seen, epoch: int) -> list[JsonObject]:
    """A row for each worker that is live or silent."""
    return [
        {
            "worker": heartbeat.worker,
            "boot_id": heartbeat.boot_id,
            "is_live": age_seconds < HEARTBEAT_TIMEOUT_SECONDS,
            "is_faded": age_seconds >= FADED_SECONDS,
            "age_seconds": round(age_seconds, 1),
            "epochs_behind": max(0, epoch - heartbeat.epoch),
            "models_behind": len(heartbeat.behind),
        }
        for heartbeat, age_seconds in heartbeats
        if age_seconds < SILENT_SECONDS
    ]


def reasons_of(heartbeats: Seen) -> list[JsonObject]:
    """Each reason of live workers once, by model: why an older route stays, or the rollback target is not loaded."""
    workers: defaultdict[tuple[str, str, bool], list[str]] = defaultdict(list)
    for heartbeat in _live(heartbeats):
        for name, reason in heartbeat.behind.items():
            revision = heartbeat.older_revisions.get(name)
            instead = "" if revision is None else f"; revision {revision} is served instead"
            workers[name, f"{reason}{instead}", True].append(heartbeat.worker)
        for name in heartbeat.unloadable:
            for version, reason in heartbeat.unloadable_target(name).items():
                text = f"the rollback target {version} cannot be loaded: {reason}"
                workers[name, text, False].append(heartbeat.worker)
    return [
        {
            "model_name": name,
            "reason": _DIGEST.sub(r"\1…", reason),
            "is_behind": is_behind,
            "workers": sorted(set(names)),
        }
        for (name, reason, is_behind), names in sorted(workers.items())
    ]


def served_percents(
    model: RegisteredModel, changes: Iterable[Change], heartbeats: Seen
) -> Mapping[str, float]:
    """The percentage of the users that each version answers, as the mean over the live workers.

    A worker with an older route answers by that one. Without live workers, and for a route that is not among `changes`,
    the registry's route counts.
    """
    routes: dict[int, Route] = {change.revision: change.route for change in changes}
    used = [
        routes.get(heartbeat.older_revisions.get(model.model_name, model.revision), model.route)
        for heartbeat in _live(heartbeats)
    ] or [model.route]
    totals: Counter[str] = Counter()
    for route in used:
        for version, weight in weights_of(route).items():
            totals[version] += int(weight * 100)
    return {version: float(Decimal(total) / 100 / len(used)) for version, total in totals.items()}


def _live(heartbeats: Seen) -> list[WorkerHeartbeat]:
    return [heartbeat for heartbeat, age_seconds in heartbeats if age_seconds < HEARTBEAT_TIMEOUT_SECONDS]
