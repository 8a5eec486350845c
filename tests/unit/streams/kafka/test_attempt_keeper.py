"""streams/kafka/attempt_keeper.py: an attempt is committed before its records are handed out, or they are read again."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest
from aiokafka.structs import TopicPartition
from faust.types import TP

from streams.kafka.attempt_keeper import AttemptKeeper
from streams.kafka.attempt_ledger import ATTEMPT_LIMIT, AttemptLedger
from streams.kafka.batch_reader import BatchReader
from streams.kafka.commit_metadata import BegunRange, CommitMetadata
from streams.kafka.offset_tracker import OffsetTracker, Partition
from tests.support.models.served_versions import FakeRecord, record_of
from tests.support.worker.pipeline_harness import slice_of

PLACE = TP("requests", 0)
PARTITION = Partition("requests", 0)
SLICE_RECORDS, WINDOW = 32, 64


class FakeConsumer:
    """Is at the committed offset; `refuses` what is committed from a number of commits on."""

    def __init__(self, ledger: AttemptLedger, offset: int, metadata: CommitMetadata) -> None:
        self.ledger = ledger
        self.offsets = OffsetTracker()
        self.taken_over: Mapping[TopicPartition, tuple[int, CommitMetadata]] = {
            TopicPartition(*PLACE): (offset, metadata)
        }
        self.offset = offset
        self.commits: list[CommitMetadata] = []
        self.accepts = 100
        self.sought: list[int] = []
        self.lost_noted_after: list[int] = []
        self.on_commit: Callable[[], object] = lambda: None

    @property
    def kafka(self) -> Any:
        return self

    def assignment(self) -> set[TP]:
        return {PLACE}

    def position_of(self, tp: Any) -> int | None:
        return self.offset if tp == PLACE else None

    async def end_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(partitions, 10_000)

    def pass_over_lost_records(self) -> None:
        self.lost_noted_after.append(len(self.commits))

    def seek(self, partition: TopicPartition, offset: int) -> None:
        assert partition == PLACE
        self.sought.append(offset)

    async def commit_attempts(self, partitions: Iterable[Partition]) -> bool:
        assert set(partitions) == {PARTITION}
        self.commits.append(self.ledger.metadata(PARTITION, self.offset))
        self.on_commit()
        return len(self.commits) <= self.accepts


class FakeFetcher:
    """Has records of the partition with these offsets."""

    def __init__(self, *offsets: int) -> None:
        self._records = {PLACE: [record_of(b"{}", offset=offset) for offset in offsets]}

    async def fetched_records(self, partitions: Any, **options: Any) -> dict[TP, list[FakeRecord]]:
        assert list(partitions) == [PLACE]
        return {PLACE: self._records[PLACE][: options["max_records"]]}


def keeper_at(offset: int, *begun: BegunRange, parsing: bool = False) -> tuple[AttemptKeeper, FakeConsumer]:
    ledger = AttemptLedger(SLICE_RECORDS, max_outstanding=1)
    consumer = FakeConsumer(ledger, offset, CommitMetadata(begun, parsing=parsing))
    return AttemptKeeper(consumer, ledger, BatchReader(1 << 20, 1 << 20), SLICE_RECORDS), consumer


def begun_of(consumer: FakeConsumer) -> list[list[tuple[int, int]]]:
    return [[(each.end, each.attempts) for each in metadata.begun] for metadata in consumer.commits]


async def test_a_first_attempt_is_committed_once_for_a_window() -> None:
    """The next slice is in the window; offsets with a gap that leads beyond it need another commit."""
    keeper, consumer = keeper_at(100)
    assert await keeper.fetched(FakeFetcher(100, 101), {PLACE})
    assert begun_of(consumer) == [[(100 + WINDOW, 1)]]
    assert await keeper.fetched(FakeFetcher(102, 103), {PLACE})
    assert len(consumer.commits) == 1
    assert await keeper.fetched(FakeFetcher(104, 5000), {PLACE})
    assert begun_of(consumer)[1:] == [[(5001 + WINDOW, 1)]]


@pytest.mark.parametrize("attempts", [0, 1, 2])
async def test_lost_records_are_counted_after_the_commit_and_before_records_are_taken(attempts: int) -> None:
    """Aiokafka may find a new position during the commit; the records that are taken would be counted too."""
    keeper, consumer = keeper_at(100, *[BegunRange(164, attempts)] * bool(attempts))
    assert await keeper.fetched(FakeFetcher(100), {PLACE})
    assert consumer.lost_noted_after == [1]


async def test_records_whose_attempt_is_not_committed_are_read_again() -> None:
    """They were taken already; the position goes back to the first one."""
    keeper, consumer = keeper_at(100)
    consumer.accepts = 1
    assert await keeper.fetched(FakeFetcher(100, 5000), {PLACE}) is None
    assert consumer.sought == [100]


async def test_without_a_commit_nothing_is_taken() -> None:
    """A refused window leaves the records where they are."""
    keeper, consumer = keeper_at(100)
    consumer.accepts = 0
    assert await keeper.fetched(FakeFetcher(100), {PLACE}) is None
    assert consumer.sought == []


async def test_a_second_attempt_has_few_records() -> None:
    """A 16th of a slice, counted before it is taken, up to where the number of attempts ends."""
    keeper, consumer = keeper_at(100, BegunRange(164, 1))
    records = await keeper.fetched(FakeFetcher(*range(100, 130)), {PLACE})
    assert records is not None
    assert [record.offset for record in records[PLACE]] == [100, 101]
    assert begun_of(consumer) == [[(102, 2), (164, 1)]]


async def test_a_third_attempt_is_committed_before_its_batch_is_parsed_and_after() -> None:
    """So the next owner knows which of the two ended the process."""
    keeper, consumer = keeper_at(100, BegunRange(103, 2))
    records = await keeper.fetched(FakeFetcher(100, 101), {PLACE})
    assert records is not None
    assert [record.offset for record in records[PLACE]] == [100]
    assert begun_of(consumer) == [[(101, 3), (103, 2)]] * 2
    assert [metadata.parsing for metadata in consumer.commits] == [True, False]


@pytest.mark.parametrize("offset", [100, 102])
async def test_an_abandoned_batch_is_not_begun_again(offset: int) -> None:
    """The reader is told not to parse it, and its attempts stay as they are."""
    keeper, consumer = keeper_at(offset, BegunRange(103, ATTEMPT_LIMIT), parsing=True)
    assert await keeper.fetched(FakeFetcher(offset), {PLACE})
    assert consumer.commits == []
    assert keeper._reader.abandoned(TopicPartition(*PLACE)) == "3 processes ended while they read it"


async def test_after_a_reassignment_during_a_commit_the_new_position_stays() -> None:
    """It may be before the records that were taken, which nobody has answered."""
    keeper, consumer = keeper_at(100)

    def close_in_second_commit() -> None:
        if len(consumer.commits) == 2:
            keeper.close()

    consumer.on_commit = close_in_second_commit
    assert await keeper.fetched(FakeFetcher(100, 5000), {PLACE}) is None
    assert len(consumer.commits) == 2
    assert consumer.sought == []


async def test_a_batch_to_abandon_is_forgotten_with_its_assignment() -> None:
    """Another owner has stepped over it: the next batch is an innocent one."""
    keeper, _ = keeper_at(100, BegunRange(103, ATTEMPT_LIMIT), parsing=True)
    assert await keeper.fetched(FakeFetcher(100), {PLACE})
    keeper.close()
    assert keeper._reader.abandoned(TopicPartition(*PLACE)) is None


async def test_a_third_attempt_waits_for_slices_that_are_set_aside() -> None:
    """They have no weight, and are in progress all the same: the attempt would not be alone."""
    keeper, consumer = keeper_at(100, BegunRange(103, 2))
    other = slice_of({})
    consumer.offsets.track(other)
    other.set_aside()
    assert consumer.offsets.outstanding == 0
    assert await keeper.fetched(FakeFetcher(100), {PLACE}) == {}
    assert consumer.commits == []


async def test_what_is_finished_with_care_is_committed_again_after_a_commit_that_found_no_topic() -> None:
    """Its offset counts as settled, so nothing else would commit it, and no record would be handed out."""
    keeper, consumer = keeper_at(100)
    assert await keeper.fetched(FakeFetcher(100), {PLACE})
    consumer.ledger.unsettled.add(PARTITION)
    assert await keeper.fetched(FakeFetcher(101), {PLACE})
