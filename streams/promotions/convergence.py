"""How far the workers have followed a change of the registry, and waiting until all of them have."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass

from registry.heartbeats import Heartbeats
from registry.worker_heartbeat import WorkerHeartbeat

POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Convergence:
    """Which live workers serve an epoch of a model, and why the others (`behind`) do not yet."""

    serving: Sequence[str]
    behind: Mapping[str, str]

    @property
    def complete(self) -> bool:
        """True when no live worker serves an older route. True also when no worker is live."""
        return not self.behind


def convergence(heartbeats: Sequence[WorkerHeartbeat], model_name: str, epoch: int) -> Convergence:
    """PURE. How far the workers with these heartbeats are."""
    return Convergence(
        serving=[heartbeat.worker for heartbeat in heartbeats if heartbeat.serves(model_name, epoch)],
        behind={
            heartbeat.worker: heartbeat.behind[model_name]
            if heartbeat.epoch >= epoch
            else f"it serves epoch {heartbeat.epoch} of the registry, and not yet epoch {epoch}"
            for heartbeat in heartbeats
            if not heartbeat.serves(model_name, epoch)
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
        reached = convergence(await heartbeats.live(), model_name, epoch)
        yield reached
        if reached.complete or now() >= deadline_loop_seconds:
            return
        await asyncio.sleep(POLL_SECONDS)
