"""Waiting until the workers answer by what was decided."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass

from registry.leases import Lease, Leases

POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Rollout:
    """Which live workers answer for a model by an epoch, and why the others do not."""

    serving: Sequence[str]
    behind: Mapping[str, str]

    @property
    def complete(self) -> bool:
        """Whether no live worker answers by an older route; so it is while none lives."""
        return not self.behind


def rollout(leases: Sequence[Lease], model_name: str, epoch: int) -> Rollout:
    """PURE. How far the workers with these leases are."""
    return Rollout(
        serving=[lease.worker for lease in leases if lease.serves(model_name, epoch)],
        behind={
            lease.worker: lease.behind[model_name]
            if lease.epoch >= epoch
            else f"it has followed the registry to epoch {lease.epoch}, this is {epoch}"
            for lease in leases
            if not lease.serves(model_name, epoch)
        },
    )


async def follow(
    leases: Leases, model_name: str, epoch: int, *, timeout_seconds: float
) -> AsyncIterator[Rollout]:
    """Look again and again; the last one is complete, or all that was reached within the time.

    Raises RegistryUnavailableError and SetupError.
    """
    now = asyncio.get_running_loop().time
    give_up_at = now() + timeout_seconds
    while True:
        seen = rollout(await leases.live(), model_name, epoch)
        yield seen
        if seen.complete or now() >= give_up_at:
            return
        await asyncio.sleep(POLL_SECONDS)
