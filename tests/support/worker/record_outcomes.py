"""Holds what must become of each record of an installation, by the rule of its topic."""

import asyncio
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import asyncpg
import orjson

from schemas.errors import UnreadableBatchError
from streams.config.settings import Settings
from streams.kafka.batch_parsing import BatchParser
from streams.kafka.offset_tracker import Record
from tests.support.deadline import wait_until
from tests.support.kafka.any_batches import AnyBatch
from tests.support.kafka.topic_log import TopicLog
from tests.support.worker.kept_worker import Kept, Role, Statistics
from tests.support.worker.topic_rules import SKIPPED_EVENTS, Outcome, expected, is_stored

UNREADABLE = f"{Outcome.LETTER} {UnreadableBatchError.code}"


class RecordOutcomes:
    """`requests` are the settings of the role predict, `others` those of the other roles."""

    def __init__(
        self,
        requests: Settings,
        others: Settings,
        log: TopicLog,
        database: asyncpg.Connection,
        statistics: Statistics,
    ) -> None:
        self._requests, self._others = requests, others
        self._settings = dict.fromkeys(Role, others) | {Role.PREDICT: requests}
        self._log, self._database, self._statistics = log, database, statistics
        self._parser = BatchParser(requests.batch_max_bytes)
        self._skipped: dict[Role, int] = dict.fromkeys(Role, 0)

    async def hold(self, role: Role, topic: str, batch: AnyBatch, raw: bytes, offsets: range) -> None:
        """A batch that cannot be read has a dead letter, and each record of any other what its topic's rule says."""
        settings = self._settings[role]
        records = await asyncio.to_thread(self._read, raw)
        wanted: dict[int, tuple[Record, Outcome]] = {}
        for record in records or ():
            wanted[offsets.start + record.offset] = record, expected(role, record, settings)
        missing: Mapping[int, Any] = {}

        async def complete() -> bool:
            nonlocal missing
            outcomes = self._found(topic)
            if all(UNREADABLE in outcomes[offset] for offset in offsets):
                wanted.clear()
                self._statistics.outcomes[f"{role}: {UNREADABLE}"] += 1
                return True
            missing = {
                offset: (outcome, outcomes[offset])
                for offset, (record, outcome) in wanted.items()
                if not await self._is_so(role, record, outcome, outcomes[offset], topic)
            }
            return records is not None and not missing

        await wait_until(complete, lambda: f"outcomes of {batch} at {offsets}: {missing}")
        self._statistics.outcomes.update(f"{role}: {outcome}" for _, outcome in wanted.values())
        self._skipped[role] += sum(outcome is Outcome.SKIPPED for _, outcome in wanted.values())

    async def _is_so(
        self, role: Role, record: Record, outcome: Outcome, found: Collection[str], topic: str
    ) -> bool:
        match outcome:
            case Outcome.ANSWERED | Outcome.REJECTED:
                return outcome in found
            case Outcome.LETTER:
                return any(each.startswith(Outcome.LETTER) for each in found)
            case Outcome.COUNTED | Outcome.LOGGED:
                return await is_stored(role, record, self._settings[role], topic, self._database)
            case Outcome.SKIPPED:
                # That it was passed is committed; that it was counted, `hold_skipped` holds for all.
                return True

    async def hold_skipped(self, role: Role, kept: Kept) -> None:
        """The log of a role says of at least as many records that they are skipped."""
        events = SKIPPED_EVENTS.get(role)
        if events is None:
            return

        async def counted() -> bool:
            return kept.total(events, "records") >= self._skipped[role]

        await wait_until(counted, f"{self._skipped[role]} records that the log says are skipped")

    def _read(self, raw: bytes) -> Sequence[Record] | None:
        try:
            return self._parser.parse(memoryview(raw)).records
        except UnreadableBatchError:
            return None

    def _found(self, topic: str) -> dict[int, set[str]]:
        """What became of each offset of partition 0 of the topic, as far as it was read."""
        found: dict[int, set[str]] = defaultdict(set)
        results = self._others.topic_promotion_results
        letters = self._requests.topic_dead_letters, self._others.topic_dead_letters
        for output in (self._requests.topic_responses, results, *letters):
            for record in self._log.of(output):
                headers = dict(record.headers)
                source = headers.get("headrace-source", b"").decode()
                if not source.startswith(f"{topic}/0/"):
                    continue
                first = int(source.rpartition("/")[2])
                last = int(headers.get("headrace-last-offset", str(first)))
                if output in letters:
                    outcome = f"{Outcome.LETTER} {headers['headrace-error-code'].decode()}"
                elif output == results and orjson.loads(record.value)["status"] == "rejected":
                    outcome = Outcome.REJECTED
                else:
                    outcome = Outcome.ANSWERED
                for offset in range(first, last + 1):
                    found[offset].add(outcome)
        return found
