"""streams/kafka/offset_tracker.py: the committable offset, for any order of acknowledgement."""

import gc
import weakref
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from streams.kafka.offset_tracker import (
    FULL_SLICE_WEIGHT,
    OffsetTracker,
    Partition,
    Slice,
    SliceLimits,
    weight_of,
)

PARTITION = Partition("requests", 0)
WHOLE = SliceLimits(1, 1)


@dataclass
class FakeRecord:
    offset: int
    timestamp: int = 0
    key: bytes | None = None
    value: bytes | None = b"{}"
    headers: list[tuple[str, bytes]] = field(default_factory=list)


def slice_of(first: int, count: int, partition: Partition = PARTITION, generation: int = 1) -> Slice:
    records = [FakeRecord(offset) for offset in range(first, first + count)]
    return Slice(partition, records, generation, received_at=0.0, limits=WHOLE)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_never_commits_past_an_open_record(sizes: list[int], random: object) -> None:
    """At each moment the committable offset is that of the first slice that is not done."""
    tracker, slices, start = OffsetTracker(), [], 0
    for size in sizes:
        slices.append(slice_of(start, size))
        tracker.track(slices[-1])
        start += size
    order = list(slices)
    random.shuffle(order)  # type: ignore[attr-defined]  # Hypothesis gives a random.Random
    for done in order:
        tracker.acknowledge(done)
        unfinished = [one for one in slices if not one.acknowledged]
        first_open = unfinished[0].records[0].offset if unfinished else start
        assert (tracker.committable(PARTITION) or 0) == first_open
        assert tracker.outstanding == FULL_SLICE_WEIGHT * len(unfinished)
    assert tracker.committable(PARTITION) == start


class Unanswered:
    """The offsets of a slice's records that are not answered, as its handler reports them."""

    def __init__(self, handled: Slice) -> None:
        self.handled = handled
        self.offsets = {record.offset for record in handled.records}

    def answer(self, *offsets: int) -> None:
        self.offsets.difference_update(offsets)
        self.handled.answered_but(lambda: self.offsets, len(self.offsets))


@given(
    st.lists(st.integers(1, 8), min_size=1, max_size=6),
    st.lists(st.integers(0, 47), unique=True, max_size=48),
    st.randoms(use_true_random=False),
)
def test_never_commits_past_an_unanswered_record(sizes: list[int], order: list[int], random: object) -> None:
    """In whatever order the records of several slices are answered and the slices acknowledged."""
    tracker, slices, start = OffsetTracker(), [], 0
    for size in sizes:
        # Compaction leaves gaps between slices and within them.
        records = [FakeRecord(start + 2 * at, timestamp=start + 2 * at) for at in range(size)]
        slices.append(Unanswered(Slice(PARTITION, records, 1, received_at=0.0, limits=WHOLE)))
        start += 2 * size
        tracker.track(slices[-1].handled)
    for offset in order:
        for each in slices:
            if offset in each.offsets:
                each.answer(offset)
            if not each.offsets and random.random() < 0.5:  # type: ignore[attr-defined]  # Hypothesis gives a Random
                tracker.acknowledge(each.handled)
        unanswered = sorted(offset for each in slices for offset in each.offsets)
        committable = tracker.committable(PARTITION)
        assert committable is None or not unanswered or committable <= unanswered[0]
        first = next((each for each in slices if not each.handled.acknowledged), None)
        if first is not None:
            assert {record.offset for record in first.handled.records} >= first.offsets
            if first.offsets:
                assert tracker.oldest_ms() == min(first.offsets)
        assert tracker.outstanding == sum(
            each.handled.weight for each in slices if not each.handled.acknowledged
        )


def test_the_answered_records_of_a_slice_are_committed_and_weigh_nothing() -> None:
    """With 20 of 2,000 records left, a slice keeps twice their share at most, and the first of them is not committed."""
    tracker, lost = OffsetTracker(), []
    records = [FakeRecord(offset) for offset in range(2000)]
    handled = Slice(PARTITION, records, 1, received_at=0.0, limits=SliceLimits(2000, 1024 * 1024))
    tracker.track(handled)
    handled.on_lighter(lambda _, weight: lost.append(weight))
    unanswered = Unanswered(handled)
    assert (tracker.committable(PARTITION), tracker.outstanding) == (None, FULL_SLICE_WEIGHT)
    slow = range(700, 720)
    for offset in range(2000):
        if offset not in slow:
            unanswered.answer(offset)
    assert tracker.committable(PARTITION) == 700
    assert {record.offset for record in handled.records} >= set(slow)
    assert len(handled.records) < 2 * len(slow)
    assert tracker.outstanding == handled.weight == FULL_SLICE_WEIGHT - sum(lost) <= 6
    tracker.settle(PARTITION, 700)
    assert list(tracker.partitions()) == []
    tracker.acknowledge(handled)
    assert (tracker.committable(PARTITION), tracker.outstanding) == (2000, 0)


def test_large_records_that_wait_keep_their_weight() -> None:
    """One record may be most of its slice's bytes."""
    tracker = OffsetTracker()
    records = [FakeRecord(0, value=b"x" * 99_800), *(FakeRecord(offset) for offset in range(1, 100))]
    handled = Slice(PARTITION, records, 1, received_at=0.0, limits=SliceLimits(2000, 200_000))
    tracker.track(handled)
    Unanswered(handled).answer(*range(1, 100))
    assert tracker.outstanding == FULL_SLICE_WEIGHT // 2


def test_answers_of_an_earlier_assignment_change_nothing() -> None:
    """Neither the weight nor the committable offset of the new assignment."""
    tracker, old, new = OffsetTracker(), slice_of(0, 8), slice_of(0, 8, generation=2)
    tracker.track(old)
    tracker.clear()
    tracker.track(new)
    Unanswered(old).answer(*range(7))
    assert (tracker.outstanding, tracker.committable(PARTITION)) == (FULL_SLICE_WEIGHT, None)


def test_partitions_do_not_wait_for_each_other() -> None:
    """An open slice of one partition holds back no other partition."""
    tracker, other = OffsetTracker(), Partition("requests", 1)
    tracker.track(slice_of(0, 2))
    done = slice_of(7, 3, other)
    tracker.track(done)
    tracker.acknowledge(done)
    assert tracker.committable(other) == 10
    assert tracker.committable(PARTITION) is None
    assert list(tracker.partitions()) == [other]


def test_a_settled_offset_is_not_committed_again() -> None:
    """A later one stays: slices may be acknowledged while an earlier offset is committed."""
    tracker, first, second = OffsetTracker(), slice_of(0, 2), slice_of(2, 2)
    for each in (first, second):
        tracker.track(each)
    tracker.acknowledge(first)
    tracker.acknowledge(second)
    tracker.settle(PARTITION, 2)
    assert tracker.committable(PARTITION) == 4
    tracker.settle(PARTITION, 4)
    assert tracker.committable(PARTITION) is None
    assert list(tracker.partitions()) == []


def test_what_is_passed_over_is_committable() -> None:
    """At once, or with the slices before it."""
    tracker, first = OffsetTracker(), slice_of(5, 2)
    tracker.pass_over(PARTITION, 5)
    assert tracker.committable(PARTITION) == 5
    tracker.track(first)
    tracker.pass_over(PARTITION, 9)
    assert tracker.committable(PARTITION) == 5
    tracker.acknowledge(first)
    assert tracker.committable(PARTITION) == 9


def test_acknowledging_twice_counts_once() -> None:
    """A repeat changes neither the offset nor the count of open slices."""
    tracker, first, second = OffsetTracker(), slice_of(0, 2), slice_of(2, 2)
    tracker.track(first)
    tracker.track(second)
    tracker.acknowledge(first)
    tracker.acknowledge(first)
    assert (tracker.outstanding, tracker.committable(PARTITION)) == (FULL_SLICE_WEIGHT, 2)


def test_slices_of_an_earlier_assignment_are_not_committed() -> None:
    """After a rebalance an old slice that gets done neither commits nor frees a slot twice."""
    tracker, old = OffsetTracker(), slice_of(0, 2)
    tracker.track(old)
    tracker.clear()
    tracker.acknowledge(old)
    assert (tracker.outstanding, tracker.committable(PARTITION)) == (0, None)
    new = slice_of(0, 2, generation=2)
    tracker.track(new)
    tracker.acknowledge(old)
    assert (tracker.outstanding, tracker.committable(PARTITION)) == (FULL_SLICE_WEIGHT, None)


def test_offset_gaps_do_not_block_commits() -> None:
    """Compacted or transactional records leave holes; the next offset is that after the last record."""
    tracker = OffsetTracker()
    holed = Slice(PARTITION, [FakeRecord(3), FakeRecord(9)], 1, received_at=0.0, limits=WHOLE)
    tracker.track(holed)
    tracker.acknowledge(holed)
    assert tracker.committable(PARTITION) == 10


def test_a_slice_weighs_by_its_records_or_its_bytes() -> None:
    """Whichever is more; never nothing. Keys, headers and what a record takes beside its bytes count."""
    small, large = FakeRecord(0, value=b"x"), FakeRecord(0, value=b"x" * 800)
    assert weight_of([small], SliceLimits(2000, 1_000_000)) == 1
    assert weight_of([FakeRecord(0, value=None)], SliceLimits(2000, 1_000_000)) == 1
    assert weight_of([small] * 250, SliceLimits(2000, 1_000_000)) == FULL_SLICE_WEIGHT // 8
    assert weight_of([large] * 125, SliceLimits(2000, 1_000_000)) == FULL_SLICE_WEIGHT // 8
    assert weight_of([small] * 500, SliceLimits(2000, 1_000_000)) == FULL_SLICE_WEIGHT
    assert (
        weight_of([FakeRecord(0, key=b"k" * 800, value=None)] * 125, SliceLimits(2000, 1_000_000))
        == FULL_SLICE_WEIGHT // 8
    )
    with_headers = FakeRecord(0, value=b"x" * 800, headers=[("", b"")] * 10)
    assert weight_of([with_headers] * 125, SliceLimits(2000, 1_000_000)) == FULL_SLICE_WEIGHT // 4


def test_a_record_beyond_the_limit_weighs_more_than_a_whole_slice() -> None:
    """Otherwise the limit of slices would not bound the memory of large records."""
    assert weight_of([FakeRecord(0, value=b"x" * 2800)], SliceLimits(2000, 1000)) == 3 * FULL_SLICE_WEIGHT


def test_an_acknowledged_slice_is_freed_at_once() -> None:
    """Its records too while it waits for the slices before it, and without the garbage collector."""
    tracker, first, second = OffsetTracker(), slice_of(0, 2), slice_of(2, 2)
    tracker.track(first)
    tracker.track(second)
    answering = Unanswered(second)
    answering.answer(2)
    tracker.acknowledge(second)
    assert second.records == ()
    gone = weakref.ref(answering)
    gc.disable()
    try:
        tracker.acknowledge(first)
        del second, answering
        assert gone() is None
    finally:
        gc.enable()
    assert tracker.committable(PARTITION) == 4
