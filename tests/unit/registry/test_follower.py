"""Following the registry by its epoch."""

from collections.abc import Coroutine, Sequence
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from registry.follower import NOTHING_KNOWN, EpochFollower, RegistryChanges, read_since
from registry.snapshot import RegisteredModel, Snapshot
from schemas.errors import RegistryUnavailableError
from tests.support.registry.memory_registry import MemoryRegistry


@pytest.mark.parametrize(
    ("known", "epoch", "since"),
    [
        (NOTHING_KNOWN, 0, NOTHING_KNOWN),
        (NOTHING_KNOWN, 7, NOTHING_KNOWN),
        (7, 7, None),
        (7, 9, 7),
        (7, 6, NOTHING_KNOWN),
        (7, 0, NOTHING_KNOWN),
    ],
)
def test_what_is_read_at_an_epoch(known: int, epoch: int, since: int | None) -> None:
    """Nothing, what changed, or everything after a restore."""
    assert read_since(known, epoch) == since


def test_a_complete_reading_drops_what_it_does_not_hold() -> None:
    known = {"a": "old", "b": "old"}
    assert RegistryChanges(9, {"b": 2}, is_complete=False).merged(known, {"b": "new"}) == {
        "a": "old",
        "b": "new",
    }
    assert RegistryChanges(1, {"b": 2}, is_complete=True).merged(known, {"b": "new"}) == {"b": "new"}


Copy = tuple[int, dict[str, tuple[int, RegisteredModel]]]


class Registry(MemoryRegistry):
    """Records what is read, can fail while it is read, and can be restored to a copy."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[int] = []
        self.fails = False
        self.restored_while_read: Copy | None = None

    def copy(self) -> Copy:
        return self.now, dict(self.models)

    def restore(self, copy: Copy) -> None:
        self.now, self.models = copy[0], dict(copy[1])

    async def revisions(self, since_epoch: int = NOTHING_KNOWN) -> Snapshot[int]:
        self.reads.append(since_epoch)
        if self.fails:
            raise RegistryUnavailableError("down")
        if self.restored_while_read is not None:
            self.restore(self.restored_while_read)
            self.restored_while_read = None
        return await super().revisions(since_epoch)


def result_of(coroutine: Coroutine[Any, Any, RegistryChanges[int] | None]) -> RegistryChanges[int] | None:
    """Run a coroutine that waits for nothing."""
    with pytest.raises(StopIteration) as stopped:
        coroutine.send(None)
    result: RegistryChanges[int] | None = stopped.value.value
    return result


async def test_a_failed_poll_is_repeated_whole() -> None:
    """The changes are not lost, because the follower stays at its epoch."""
    registry = Registry()
    follower = EpochFollower(registry.epoch, registry.revisions)
    registry.put({"v1": 100}, name="a")
    await follower.poll()
    registry.put({"v1": 100}, name="b")
    registry.fails = True
    with pytest.raises(RegistryUnavailableError):
        await follower.poll()
    registry.fails = False
    assert await follower.poll() == RegistryChanges(2, {"b": 2}, is_complete=False)
    assert registry.reads == [NOTHING_KNOWN, 1, 1]


async def test_a_registry_that_is_restored_during_a_poll_is_read_whole() -> None:
    """Its epoch was higher when it was read, and lower when the changes were."""
    registry = Registry()
    registry.put({"v1": 100}, name="a")
    backup = registry.copy()
    follower = EpochFollower(registry.epoch, registry.revisions)
    registry.put({"v1": 100}, name="b")
    await follower.poll()
    registry.put({"v1": 100}, name="b")
    registry.restored_while_read = backup
    assert await follower.poll() == RegistryChanges(1, {"a": 1}, is_complete=True)


class Following(RuleBasedStateMachine):
    """Whatever happens between two polls, what a follower knows is what the registry has."""

    names: Sequence[str] = ("a", "b", "c")

    def __init__(self) -> None:
        super().__init__()
        self.registry = Registry()
        self.backups = [self.registry.copy()]
        self.follower = EpochFollower(self.registry.epoch, self.registry.revisions)
        self.known: dict[str, int] = {}

    @rule(name=st.sampled_from(names))
    def promote(self, name: str) -> None:
        self.registry.put({"v1": 100}, name=name)

    @rule()
    def back_up(self) -> None:
        self.backups.append(self.registry.copy())

    @rule(data=st.data())
    def restore(self, data: st.DataObject) -> None:
        number = data.draw(st.integers(0, len(self.backups) - 1))
        # Backups of a history that is undone are not restored, and a poll comes before more promotions: an epoch
        # that went back and rose again looks like one that only rose.
        self.backups = self.backups[: number + 1]
        self.registry.restore(self.backups[number])
        self.poll()

    @rule()
    def poll(self) -> None:
        changes = result_of(self.follower.poll())
        if changes is not None:
            self.known = changes.merged(self.known, changes.models)
        assert self.follower.epoch == self.registry.now
        assert self.known == {name: model.revision for name, (_, model) in self.registry.models.items()}
        assert result_of(self.follower.poll()) is None


TestFollowing = Following.TestCase
TestFollowing.settings = settings(max_examples=100, deadline=None)
