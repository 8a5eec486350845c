"""streams/kafka/slice_room.py: which slices are handled at once, and which are set aside for others."""

import math
from dataclasses import dataclass, field

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from streams.kafka.offset_tracker import FULL_SLICE_WEIGHT, OffsetTracker, Partition, Slice, SliceLimits
from streams.kafka.slice_room import PATIENCE_SECONDS, SliceRoom

SLICE = 16
SIZE, ASIDE = 3, 2


@dataclass
class FakeRecord:
    offset: int
    timestamp: int = 0
    key: bytes | None = None
    value: bytes | None = b""
    headers: list[tuple[str, bytes]] = field(default_factory=list)


def slice_of(count: int = SLICE, first: int = 0) -> Slice:
    """A slice of full weight, or of the share of `count` where that is less than a quarter."""
    records = [FakeRecord(offset) for offset in range(first, first + count)]
    return Slice(Partition("requests", 0), records, 1, received_at=0.0, limits=SliceLimits(SLICE, 1_000_000))


def answer(handled: Slice, left: int) -> None:
    """Answer all but the last `left` records."""
    offsets = [record.offset for record in handled.records][-left:]
    handled.answered_but(lambda: offsets, left)


def full(size: int = SIZE, aside: int = ASIDE) -> tuple[SliceRoom, list[Slice]]:
    """A room with as many full slices as it takes, since time 0."""
    room = SliceRoom(size * FULL_SLICE_WEIGHT, aside * FULL_SLICE_WEIGHT)
    slices = [slice_of() for _ in range(size)]
    assert all(room.enters(each, 0.0) for each in slices)
    return room, slices


def test_no_slice_enters_a_full_room() -> None:
    """Before its slices are old, and without a place beside it."""
    room, slices = full()
    assert not room.enters(slice_of(), PATIENCE_SECONDS / 2)
    assert room.next_at(PATIENCE_SECONDS / 2) == PATIENCE_SECONDS
    room.leaves(slices[1])
    assert room.enters(slice_of(), PATIENCE_SECONDS / 2)
    without, _ = full(aside=0)
    assert not without.enters(slice_of(), 1000.0)
    assert without.next_at(0.0) == math.inf


def test_old_slices_are_set_aside_until_that_is_full_too() -> None:
    """The oldest first, as many as make room; afterwards everybody waits."""
    room, slices = full()
    late = 10 * PATIENCE_SECONDS
    for number in range(ASIDE):
        assert room.enters(slice_of(), late)
        assert [each.weight_aside > 0 for each in slices] == [at <= number for at in range(SIZE)]
    assert not room.enters(slice_of(), late)
    assert not room.enters(slice_of(), 2 * late)
    room.leaves(slices[0])
    assert room.enters(slice_of(), 2 * late)


def test_what_is_answered_of_a_slice_set_aside_makes_place_beside_the_room() -> None:
    """Its weight is then that of the rest."""
    room, slices = full(aside=1)
    assert room.enters(slice_of(), 10.0)
    assert (slices[0].weight, slices[0].weight_aside) == (0, FULL_SLICE_WEIGHT)
    assert not room.enters(slice_of(), 10.0)
    answer(slices[0], 1)
    assert slices[0].weight_aside == FULL_SLICE_WEIGHT // SLICE
    # The place is less than a full slice, so it is for a lighter one.
    assert not room.enters(slice_of(), 10.0)
    answer(slices[2], 2)
    assert room.enters(slice_of(), 10.0)
    assert [each.weight_aside > 0 for each in slices] == [True, False, True]


def test_a_room_of_size_0_is_for_one_slice_at_a_time() -> None:
    """Whatever the slice weighs, and however long the one before it takes."""
    room = SliceRoom(0)
    first, second = slice_of(), slice_of(1)
    assert room.enters(first, 0.0)
    assert not room.enters(second, 1000.0)
    answer(first, 1)
    assert not room.enters(second, 1000.0)
    room.leaves(first)
    assert room.enters(second, 1000.0)


def test_the_tracker_counts_apart_what_is_set_aside() -> None:
    """It limits no fetch, is not idle, and its offset is not passed."""
    tracker, handled = OffsetTracker(), slice_of()
    tracker.track(handled)
    handled.set_aside()
    assert (tracker.outstanding, tracker.set_aside, tracker.is_idle) == (0, FULL_SLICE_WEIGHT, False)
    answer(handled, 1)
    assert (tracker.outstanding, tracker.set_aside) == (0, FULL_SLICE_WEIGHT // SLICE)
    assert tracker.committable(handled.partition) == SLICE - 1
    tracker.acknowledge(handled)
    assert (tracker.outstanding, tracker.set_aside, tracker.is_idle) == (0, 0, True)
    assert tracker.committable(handled.partition) == SLICE


class Handling(RuleBasedStateMachine):
    """Slices come, are answered in parts and end in any order, while time passes."""

    def __init__(self) -> None:
        super().__init__()
        self.room = SliceRoom(SIZE * FULL_SLICE_WEIGHT, ASIDE * FULL_SLICE_WEIGHT)
        self.tracker = OffsetTracker()
        self.handled: list[Slice] = []
        self.now = 0.0
        self.offset = 0

    @rule(count=st.integers(1, SLICE))
    def comes(self, count: int) -> None:
        entering = slice_of(count, self.offset)
        before = sum(each.weight for each in self.handled)
        if self.room.enters(entering, self.now):
            self.offset += count
            self.tracker.track(entering)
            self.handled.append(entering)
        else:
            # There was no room, and nothing was changed.
            assert before + entering.weight > SIZE * FULL_SLICE_WEIGHT
            assert before == sum(each.weight for each in self.handled)
            assert self.room.next_at(self.now) > self.now

    @rule(seconds=st.sampled_from([0.0, PATIENCE_SECONDS / 2, PATIENCE_SECONDS]))
    def passes(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.handled)
    @rule(data=st.data())
    def is_answered_in_part(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(self.handled))
        answer(one, data.draw(st.integers(1, len(one.records))))

    @precondition(lambda self: self.handled)
    @rule(data=st.data())
    def ends(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(self.handled))
        self.handled.remove(one)
        self.tracker.acknowledge(one)
        self.room.leaves(one)

    @invariant()
    def both_limits_hold(self) -> None:
        assert sum(each.weight for each in self.handled) <= SIZE * FULL_SLICE_WEIGHT
        assert sum(each.weight_aside for each in self.handled) <= ASIDE * FULL_SLICE_WEIGHT
        assert all((each.weight == 0) == (each.weight_aside > 0) for each in self.handled)

    @invariant()
    def the_tracker_agrees(self) -> None:
        assert self.tracker.outstanding == sum(each.weight for each in self.handled)
        assert self.tracker.set_aside == sum(each.weight_aside for each in self.handled)
        assert self.tracker.is_idle == (not self.handled)


TestHandling = Handling.TestCase
