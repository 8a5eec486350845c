"""Following the registry: read its epoch, and what changed if the epoch moved.

The epoch is one row, so a poll without changes costs one short query. The epoch of a registry that was restored from a
backup goes back. Then all of it is read, and what is known of models that it does not have is dropped. A restore is not
noticed when, before the next poll, as many promotions are applied as the restore lost: the epoch does not go back then.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from registry.snapshot import PerModel, Snapshot

Known = TypeVar("Known")

NOTHING_KNOWN = -1
"""The epoch before the first reading. All models changed after it."""


def read_since(known_epoch: int, epoch: int) -> int | None:
    """PURE. The epoch after whose changes to read, when `known_epoch` is known and the registry is at `epoch`.

    None when nothing changed. NOTHING_KNOWN, which reads everything, when the registry went back: any model may
    differ then.
    """
    if epoch == known_epoch:
        return None
    return known_epoch if epoch > known_epoch else NOTHING_KNOWN


@dataclass(frozen=True, slots=True)
class RegistryChanges(Generic[PerModel]):
    """The models that changed, as of `epoch`. `is_complete` when they are all models that the registry has."""

    epoch: int
    models: Mapping[str, PerModel]
    is_complete: bool

    def merged(self, known: Mapping[str, Known], changed: Mapping[str, Known]) -> dict[str, Known]:
        """What is known of each model after these changes; `changed` is made of `models`.

        After a complete reading that is `changed` alone: the registry has no other models.
        """
        return dict(changed) if self.is_complete else {**known, **changed}


class EpochFollower(Generic[PerModel]):
    """Follows the registry by its epoch; `epoch` is that of the last successful poll, NOTHING_KNOWN before it.

    `read_epoch` and `load` are methods of RegistryStore. `load` reads what changed after an epoch: `RegistryStore.load`
    for models, `RegistryStore.revisions` where their revisions are enough.
    """

    def __init__(
        self,
        read_epoch: Callable[[], Awaitable[int]],
        load: Callable[[int], Awaitable[Snapshot[PerModel]]],
    ) -> None:
        self._read_epoch = read_epoch
        self._load = load
        self.epoch = NOTHING_KNOWN

    async def poll(self) -> RegistryChanges[PerModel] | None:
        """What changed since the last successful poll; None when nothing did. The first poll is complete.

        Raises RegistryUnavailableError and SetupError; the next poll then reads the same changes.
        """
        since = read_since(self.epoch, await self._read_epoch())
        if since is None:
            return None
        snapshot = await self._load(since)
        if snapshot.epoch < since:
            # It was restored between the two readings.
            since = NOTHING_KNOWN
            snapshot = await self._load(since)
        self.epoch = snapshot.epoch
        return RegistryChanges(snapshot.epoch, snapshot.models, is_complete=since == NOTHING_KNOWN)
