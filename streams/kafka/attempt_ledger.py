"""PURE. Counts how often the records of each partition were begun, over the ends of processes, and limits it.

A record that ends the process would end each process that gets its partition. So a process commits, before it begins
records, how often they were begun (`streams/kafka/commit_metadata.py`). The next owner reads it, and begins them with
more care:

| attempt | slices |
|---|---|
| 1 | full ones, several at once |
| 2 | a 16th of a full one; one at a time in the process, beside first attempts of other partitions |
| 3 | single records, and nothing else meanwhile |
| none | the record is abandoned: it was in progress when three processes ended, the last time alone |

So one record ends at most `ATTEMPT_LIMIT` processes. A good record is abandoned only if three processes ended while it
was next or in progress, the last one while it was in progress alone.

In a first attempt, many slices are in progress, and committing before each one would cost too much. So a process
reserves a window of records with one commit. What it has not begun of it when it ends counts as begun. An orderly end,
or a hand-over, gives the window back. A batch that ends the process while it is parsed is abandoned as a whole.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from streams.kafka.commit_metadata import MAX_ATTEMPTS, BegunRange, CommitMetadata
from streams.kafka.offset_tracker import Partition

ATTEMPT_LIMIT = 3
"""A record that was begun this often, and is neither answered nor committed, is abandoned."""

SECOND_ATTEMPT_DIVISOR = 16

Begun = tuple[BegunRange, ...]


def attempts_at(begun: Begun, offset: int) -> int:
    """How often the record at `offset` may have been begun."""
    return next((each.attempts for each in begun if each.end > offset), 0)


def begun_from(begun: Begun, offset: int) -> Begun:
    """Without what is before `offset`."""
    return tuple(each for each in begun if each.end > offset)


def begun_within(begun: Begun, log_end: int) -> Begun:
    """Without what is at `log_end` or behind it: no process can have begun records that do not exist."""
    kept: list[BegunRange] = []
    for each in begun:
        kept.append(each._replace(end=min(each.end, log_end)))
        if each.end >= log_end:
            break
    return tuple(kept)


def begun_again(begun: Begun, end: int) -> Begun:
    """The records before `end` are begun once more."""
    ends = sorted({each.end for each in begun} | {end})
    again = [
        BegunRange(each, min(MAX_ATTEMPTS, attempts_at(begun, each - 1) + (each <= end))) for each in ends
    ]
    # Of neighbours with the same number, the later one has the end of both.
    return tuple(
        each
        for number, each in enumerate(again)
        if number + 1 == len(again) or again[number + 1].attempts < each.attempts
    )


class Permit(NamedTuple):
    """What may be fetched next: up to `max_records` of `partitions`, or of the `careful` one alone."""

    partitions: Iterable[Partition]
    max_records: int
    careful: Partition | None = None


@dataclass(slots=True)
class _Account:
    """One partition's attempts."""

    committed: int
    """The committed offset, as far as this process knows."""
    earlier: Begun
    """What earlier processes began behind it."""
    abandoned_batch_offset: int | None
    """From here, a batch ended the processes that parsed it."""
    next_offset: int
    """Behind the records that were taken."""
    begun_end: int = 0
    """This process may have begun the records before this offset."""
    parses: bool = False
    """This process may have parsed the batch of a third attempt, and has not begun its record."""


class AttemptLedger:
    """The attempts of the partitions that a process reads, from one assignment to the next."""

    def __init__(self, slice_max_records: int, max_outstanding: int) -> None:
        self._slice_records = slice_max_records
        self._second_records = max(1, slice_max_records // SECOND_ATTEMPT_DIVISOR)
        # Twice what can be in progress, so that a window is rarely used up between two regular commits.
        self._window = 2 * max_outstanding * slice_max_records
        self._accounts: dict[Partition, _Account] = {}
        self._lacking: set[Partition] = set()
        self._in_progress: Partition | None = None
        self._is_alone = False
        self.unsettled: set[Partition] = set()
        """Partitions with a careful slice that is finished and not committed: an end of the process counts for it."""
        self._careful = False

    def open(self, partition: Partition, committed: int, metadata: CommitMetadata, log_end: int) -> None:
        """Take over a partition whose committed offset has this metadata, and whose log ends at `log_end`."""
        begun = begun_within(begun_from(metadata.begun, committed), log_end)
        abandoned = metadata.parsing and attempts_at(begun, committed) >= ATTEMPT_LIMIT
        self._accounts[partition] = _Account(committed, begun, committed if abandoned else None, committed)
        self._lacking.add(partition)
        self._find_care()

    def clear(self) -> None:
        """Forget all partitions."""
        self._accounts.clear()
        self._lacking.clear()
        self.unsettled.clear()
        self._in_progress = None
        self._is_alone = False
        self._careful = False

    @property
    def is_careful(self) -> bool:
        """Whether records are left that earlier processes began."""
        return self._careful

    def attempt(self, partition: Partition, offset: int) -> int:
        """The number of the attempt at this record that is next; above `ATTEMPT_LIMIT` it is abandoned."""
        account = self._accounts.get(partition)
        return 1 + (attempts_at(account.earlier, offset) if account is not None and account.earlier else 0)

    def batch_is_abandoned(self, partition: Partition) -> bool:
        """Whether the next batch is stepped over without parsing it."""
        account = self._accounts[partition]
        return account.abandoned_batch_offset == account.next_offset

    def permit(self, ready: Mapping[Partition, int], *, outstanding: bool) -> Permit | None:
        """What to fetch next of the `ready` partitions, given by their positions; None: wait for an acknowledgement.

        `outstanding`: slices are in progress.
        """
        if self._is_alone:
            return None
        attempts = {partition: self.attempt(partition, position) for partition, position in ready.items()}
        third = [partition for partition, number in attempts.items() if number >= ATTEMPT_LIMIT]
        if third:
            return None if outstanding else Permit((third[0],), 1, third[0])
        second = [partition for partition, number in attempts.items() if number > 1]
        if second and self._in_progress is None:
            records = min(
                self._second_records, self._end_of_attempt(second[0], ready[second[0]]) - ready[second[0]]
            )
            return Permit((second[0],), records, second[0])
        first = [
            partition
            for partition, number in attempts.items()
            if number == 1 and partition != self._in_progress
        ]
        return Permit(first, self._slice_records) if first else None

    def _end_of_attempt(self, partition: Partition, position: int) -> int:
        """Where the records end that were begun as often as the one at `position`."""
        return begun_from(self._accounts[partition].earlier, position)[0].end

    def begin(self, partition: Partition, end: int, *, parses: bool = False) -> None:
        """A careful slice up to `end` begins, as soon as the metadata is committed."""
        account = self._accounts[partition]
        account.begun_end, account.parses = end, parses
        self._lacking.add(partition)

    def took(self, partition: Partition, end: int, *, careful: bool = False, alone: bool = False) -> None:
        """Records before `end` were taken, for a `careful` attempt, or for a third one, which is `alone`."""
        account = self._accounts[partition]
        account.next_offset = end
        if account.begun_end < end + self._slice_records:
            self._lacking.add(partition)
        if careful:
            self._in_progress, self._is_alone = partition, alone

    def finished(self, partition: Partition) -> None:
        """A slice was acknowledged."""
        if partition == self._in_progress:
            self._in_progress = None
            self._is_alone = False
            self.unsettled.add(partition)

    def lacks_window(self, partitions: Collection[Partition]) -> list[Partition]:
        """Those of the partitions whose window has no room for one more slice."""
        return [each for each in self._lacking if each in partitions]

    def reserve(self, partitions: Iterable[Partition]) -> None:
        """The windows of the partitions move on, as soon as the metadata is committed."""
        for partition in partitions:
            account = self._accounts[partition]
            account.begun_end, account.parses = account.next_offset + self._window, False
            self._lacking.discard(partition)

    def covers(self, partition: Partition, end: int) -> bool:
        """Whether the records before `end` are counted as begun."""
        return self._accounts[partition].begun_end >= end

    def metadata(self, partition: Partition, offset: int, topic_id: str = "") -> CommitMetadata:
        """What to commit with `offset` in the topic with this id."""
        account = self._accounts.get(partition)
        if account is None:
            return CommitMetadata(topic_id=topic_id)
        begun = begun_from(account.earlier, offset)
        if account.begun_end > offset:
            begun = begun_again(begun, account.begun_end)
        parsing = account.parses or offset == account.abandoned_batch_offset
        return CommitMetadata(begun, topic_id, parsing)

    def committed_offset(self, partition: Partition) -> int:
        """The offset that is committed, as far as this process knows; 0 for a partition that is not taken over."""
        account = self._accounts.get(partition)
        return 0 if account is None else account.committed

    def may_commit(self, partition: Partition, offset: int) -> bool:
        """False for an offset before the committed one, and for a partition that is not taken over."""
        account = self._accounts.get(partition)
        return account is not None and offset >= account.committed

    def committed(self, partition: Partition, offset: int) -> None:
        """Note a commit."""
        account = self._accounts.get(partition)
        if account is None:
            return
        account.committed = offset
        self.unsettled.discard(partition)
        if account.earlier:
            account.earlier = begun_from(account.earlier, offset)
            self._find_care()

    def give_back(self) -> list[Partition]:
        """Nothing is in progress any more: the partitions whose metadata changes by that."""
        held = [each for each, account in self._accounts.items() if account.begun_end > account.committed]
        for account in self._accounts.values():
            account.begun_end, account.parses = 0, False
        return held

    def _find_care(self) -> None:
        self._careful = any(account.earlier for account in self._accounts.values())
