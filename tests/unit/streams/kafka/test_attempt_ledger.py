"""streams/kafka/attempt_ledger.py: whatever ends processes, each record has few attempts and the good ones go on."""

import random
from collections import Counter
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from streams.kafka.attempt_ledger import (
    ATTEMPT_LIMIT,
    AttemptLedger,
    attempts_at,
    begun_again,
    begun_from,
    begun_within,
)
from streams.kafka.commit_metadata import BegunRange, CommitMetadata, decode_metadata, encode_metadata
from streams.kafka.offset_tracker import Partition

SLICE_RECORDS, MAX_OUTSTANDING = 32, 2
BATCH_RECORDS = 10
KILL_CHANCE = 0.1
PARTITIONS = [Partition("requests", number) for number in range(3)]

Place = tuple[Partition, int]


@dataclass
class Broker:
    """The log, what is committed, and what became of each record."""

    log_end: int
    poison: set[Place]
    """They end the process that handles them."""
    poison_batches: set[Place]
    """By their first records: they end the process that parses them."""
    committed: dict[Partition, tuple[int, str]] = field(
        default_factory=lambda: dict.fromkeys(PARTITIONS, (0, ""))
    )
    begun: Counter[Place] = field(default_factory=Counter)
    answered: set[Place] = field(default_factory=set)
    abandoned: set[Place] = field(default_factory=set)
    ended_alone: set[Place] = field(default_factory=set)
    """What had its third attempt, or its batch parsed for that, and was not committed, when a process ended."""
    ends: int = 0

    @property
    def is_done(self) -> bool:
        return all(offset == self.log_end for offset, _ in self.committed.values())


class ProcessEndsError(Exception):
    """A record, or a kill from outside, ends the process."""


class Process:
    """One life of a worker; `chance` chooses what happens next, and each commit may be its last by `kills`."""

    def __init__(self, broker: Broker, chance: random.Random, kills: int) -> None:
        self.broker = broker
        self.chance = chance
        self.kills = kills
        self.ledger = AttemptLedger(SLICE_RECORDS, MAX_OUTSTANDING)
        self.position: dict[Partition, int] = {}
        self.committable: dict[Partition, int] = {}
        self.slices: list[tuple[Partition, range, int]] = []
        self.alone: set[Place] = set()

    def run(self) -> None:
        for partition, (offset, text) in self.broker.committed.items():
            self.ledger.open(partition, offset, decode_metadata(text), self.broker.log_end)
            self.position[partition] = self.committable[partition] = offset
        while not self.broker.is_done:
            match self.chance.choice(["fetch", "fetch", "finish", "finish", "commit"]):
                case "fetch":
                    self.fetch()
                case "finish" if self.slices:
                    self.finish(self.chance.randrange(len(self.slices)))
                case _:
                    self.commit(PARTITIONS)

    def may_be_killed(self) -> None:
        if self.kills and self.chance.random() < KILL_CHANCE:
            self.kills -= 1
            raise ProcessEndsError

    def commit(self, partitions: list[Partition]) -> None:
        self.may_be_killed()
        for partition in partitions:
            offset = self.committable[partition]
            text = encode_metadata(self.ledger.metadata(partition, offset))
            self.broker.committed[partition] = (offset, text)
            self.ledger.committed(partition, offset)
            self.alone -= {each for each in self.alone if each[0] == partition and each[1] < offset}
        self.may_be_killed()

    def commit_progress(self, partition: Partition) -> None:
        """Commit what is finished too, so that the end of the careful slice does not count for it."""
        finished = [each for each in PARTITIONS if self.committable[each] > self.broker.committed[each][0]]
        self.commit(sorted({partition, *finished}))

    def fetch(self) -> None:
        if len(self.slices) > MAX_OUTSTANDING:
            return
        ready = {each: at for each, at in self.position.items() if at < self.broker.log_end}
        permit = self.ledger.permit(ready, outstanding=bool(self.slices))
        if permit is None:
            return
        partition = self.chance.choice(list(permit.partitions))
        if permit.careful is None:
            if self.ledger.unsettled:
                self.commit_progress(partition)
            if lacking := self.ledger.lacks_window([partition]):
                self.ledger.reserve(lacking)
                self.commit(lacking)
            self.take(partition, permit.max_records)
            return
        at = self.position[partition]
        third = self.ledger.attempt(partition, at) >= ATTEMPT_LIMIT
        if self.ledger.batch_is_abandoned(partition):
            self.take(partition, permit.max_records, careful=True, alone=True)
            return
        self.ledger.begin(partition, at + permit.max_records, parses=third)
        if third:
            self.alone |= {(partition, each) for each in self.batch_from(at)}
        self.commit_progress(partition)
        if third:
            self.parse(partition)
            self.ledger.begin(partition, at + permit.max_records)
            self.commit_progress(partition)
            self.alone = {(partition, at)}
        self.take(partition, permit.max_records, careful=True, alone=third)

    def batch_from(self, at: int) -> range:
        return range(at, min(at - at % BATCH_RECORDS + BATCH_RECORDS, self.broker.log_end))

    def parse(self, partition: Partition) -> None:
        at = self.position[partition]
        if (partition, at - at % BATCH_RECORDS) in self.broker.poison_batches:
            raise ProcessEndsError

    def take(
        self, partition: Partition, max_records: int, *, careful: bool = False, alone: bool = False
    ) -> None:
        """Up to `max_records` of one batch; an abandoned batch is stepped over as one."""
        at = self.position[partition]
        batch = self.batch_from(at)
        if self.ledger.batch_is_abandoned(partition):
            records = batch
            attempt = ATTEMPT_LIMIT + 1
        else:
            self.parse(partition)
            records = batch[:max_records]
            attempt = self.ledger.attempt(partition, at)
            assert {self.ledger.attempt(partition, each) for each in records} == {attempt}
            assert self.ledger.covers(partition, records.stop)
        self.position[partition] = records.stop
        self.ledger.took(partition, records.stop, careful=careful, alone=alone)
        self.slices.append((partition, records, attempt))
        if attempt <= ATTEMPT_LIMIT:
            self.broker.begun.update((partition, each) for each in records)

    def finish(self, number: int) -> None:
        partition, records, attempt = self.slices[number]
        places = {(partition, each) for each in records}
        if attempt > ATTEMPT_LIMIT:
            self.broker.abandoned |= places
        else:
            if places & self.broker.poison:
                raise ProcessEndsError
            self.broker.answered |= places
        del self.slices[number]
        self.ledger.finished(partition)
        behind = [each.start for owner, each, _ in self.slices if owner == partition]
        self.committable[partition] = min(behind, default=self.position[partition])


@st.composite
def brokers(draw: st.DrawFn) -> Broker:
    log_end = draw(st.integers(0, 120))
    places = st.tuples(st.sampled_from(PARTITIONS), st.integers(0, max(0, log_end - 1)))
    poison = draw(st.sets(places, max_size=3)) if log_end else set()
    batches = draw(st.sets(places, max_size=1)) if log_end else set()
    return Broker(log_end, poison, {(each, at - at % BATCH_RECORDS) for each, at in batches})


@settings(max_examples=150)
@given(brokers(), st.integers(0, 12), st.integers(0, 2**32))
def test_each_record_has_few_attempts(broker: Broker, kills: int, seed: int) -> None:
    """A poison record ends few processes, and a good one is abandoned only if its third attempt met a kill."""
    left, chance = kills, random.Random(seed)
    while not broker.is_done:
        process = Process(broker, chance, left)
        try:
            process.run()
        except ProcessEndsError:
            broker.ends += 1
            broker.ended_alone |= process.alone
        left = process.kills
        assert broker.ends - (kills - left) <= ATTEMPT_LIMIT * (
            len(broker.poison) + len(broker.poison_batches)
        )
    assert all(number <= ATTEMPT_LIMIT for number in broker.begun.values())
    every = {(partition, offset) for partition in PARTITIONS for offset in range(broker.log_end)}
    assert broker.answered | broker.abandoned == every
    assert not broker.answered & broker.poison
    assert broker.abandoned <= broker.ended_alone
    in_batches = {
        (partition, first + number)
        for partition, first in broker.poison_batches
        for number in range(BATCH_RECORDS)
    }
    assert kills or broker.abandoned == broker.poison | (in_batches & every)


def test_ranges() -> None:
    """Records are begun again, done, or not there; neighbours with one number are one range."""
    one = begun_again((), 100)
    two = begun_again(one, 30)
    assert two == (BegunRange(30, 2), BegunRange(100, 1))
    assert begun_again(two, 100) == (BegunRange(30, 3), BegunRange(100, 2))
    assert begun_again(two, 150) == (BegunRange(30, 3), BegunRange(100, 2), BegunRange(150, 1))
    assert begun_from(two, 30) == (BegunRange(100, 1),)
    assert begun_within(two, 60) == (BegunRange(30, 2), BegunRange(60, 1))
    assert begun_within(two, 20) == (BegunRange(20, 2),)
    assert [attempts_at(two, offset) for offset in (0, 29, 30, 99, 100)] == [2, 2, 1, 1, 0]


def test_an_orderly_end_gives_back_what_it_reserved() -> None:
    """What an earlier process left is still counted."""
    ledger, partition = AttemptLedger(SLICE_RECORDS, MAX_OUTSTANDING), PARTITIONS[0]
    ledger.open(partition, 10, CommitMetadata(), log_end=10)
    ledger.reserve([partition])
    assert ledger.metadata(partition, 10) == CommitMetadata((BegunRange(138, 1),))
    assert ledger.give_back() == [partition]
    assert ledger.metadata(partition, 10) == CommitMetadata()
    ledger.open(partition, 10, CommitMetadata((BegunRange(40, 1),)), log_end=100)
    ledger.begin(partition, 12)
    assert ledger.metadata(partition, 10).begun == (BegunRange(12, 2), BegunRange(40, 1))
    assert ledger.give_back() == [partition]
    assert ledger.metadata(partition, 12).begun == (BegunRange(40, 1),)
