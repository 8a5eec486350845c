"""How far the workers have followed a change of the registry, and waiting until all of them have."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field

from registry.heartbeats import Heartbeats
from registry.worker_heartbeat import HEARTBEAT_TIMEOUT_SECONDS, WorkerHeartbeat

POLL_SECONDS = 0.05
SILENT_SECONDS = 600.0
"""A worker without a heartbeat for longer than this counts as ended, as the rule `stale_workers` has it by default."""


@dataclass(frozen=True, slots=True)
class Convergence:
    """Which live workers serve an epoch of a model, and why the others (`behind`) do not yet.

    `older_revisions` has the revisions by which workers in `behind` answer. `unloadable_targets` has the workers that
    serve the epoch but cannot load the rollback target, with the reason: a rollback to it would not be served there.
    `silent` has the seconds since the last heartbeat of workers that may run without PostgreSQL. Such a worker serves an
    older route, and its responses become stale.
    """

    serving: Sequence[str] = ()
    behind: Mapping[str, str] = field(default_factory=dict)
    older_revisions: Mapping[str, int] = field(default_factory=dict)
    unloadable_targets: Mapping[str, str] = field(default_factory=dict)
    silent: Mapping[str, float] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """True when no live worker serves an older route. True also when no worker is live."""
        return not self.behind


def convergence(
    heartbeats: Sequence[tuple[WorkerHeartbeat, float]], model_name: str, epoch: int
) -> Convergence:
    """PURE. How far the workers are with these heartbeats and their ages in seconds.

    A worker is named with its boot where several have its name.
    """
    live = [heartbeat for heartbeat, age_seconds in heartbeats if age_seconds < HEARTBEAT_TIMEOUT_SECONDS]
    boots = Counter(heartbeat.worker for heartbeat in live)
    named = {
        heartbeat.worker
        if boots[heartbeat.worker] == 1
        else f"{heartbeat.worker} ({heartbeat.boot_id})": heartbeat
        for heartbeat in live
    }
    return Convergence(
        serving=[name for name, heartbeat in named.items() if heartbeat.serves(model_name, epoch)],
        behind={
            name: heartbeat.behind[model_name]
            if heartbeat.epoch >= epoch
            else f"it serves epoch {heartbeat.epoch} of the registry, and not yet epoch {epoch}"
            for name, heartbeat in named.items()
            if not heartbeat.serves(model_name, epoch)
        },
        older_revisions={
            name: heartbeat.older_revisions[model_name]
            for name, heartbeat in named.items()
            if model_name in heartbeat.older_revisions
        },
        unloadable_targets={
            name: "; ".join(f"{version} cannot be loaded: {why}" for version, why in found.items())
            for name, heartbeat in named.items()
            if (found := heartbeat.unloadable_target(model_name))
        },
        # A silent worker whose name has a live one was started again.
        silent={
            heartbeat.worker: age_seconds
            for heartbeat, age_seconds in heartbeats
            if HEARTBEAT_TIMEOUT_SECONDS <= age_seconds < SILENT_SECONDS and not boots[heartbeat.worker]
        },
    )


async def wait_for_epoch(
    heartbeats: Heartbeats, model_name: str, epoch: int, *, timeout_seconds: float
) -> AsyncIterator[Convergence]:
    """Read the heartbeats each `POLL_SECONDS` until all live workers serve the epoch, and yield each reading.

    The last value is complete, or what was reached within the timeout. Raises RegistryUnavailableError and
    SetupError.
    """
    now = asyncio.get_running_loop().time
    deadline_loop_seconds = now() + timeout_seconds
    while True:
        reached = convergence(await heartbeats.all(), model_name, epoch)
        yield reached
        if reached.complete or now() >= deadline_loop_seconds:
            return
        await asyncio.sleep(POLL_SECONDS)
