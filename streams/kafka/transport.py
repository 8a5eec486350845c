# ruff: noqa: SLF001  # it rests on private names, as the docstring says
# ruff: noqa: ASYNC109  # the signatures are those of the base class
"""The batched transport: one Faust message for each slice of records, instead of one for each record.

Stock Faust spends about 80 µs of processor time on each message. Here a message is a slice: up to `slice_max_records`
consecutive records of one partition. The consumer runs on the worker's event loop. The stock driver runs it in a
thread, for agents that block the loop. No agent of Headrace does, so a thread would only add the cost of passing
records.

Invariants:
1. An offset is committed only when every record before it is answered: the broker has all its outputs
   (`streams/kafka/offset_tracker.py`). The stock consumer commits past an unacknowledged first record.
2. The agent acknowledges a slice only after all its outputs are delivered. An exception acknowledges nothing. Before
   that, the handler may say which records are not answered yet; what is before the first of them may be committed.
3. Acknowledging a slice of an earlier assignment changes nothing. A slice that is handed back in a rebalance is not
   answered later; what it has answered is committed before its partition goes.
4. Which records may be begun is committed before that (`streams/kafka/attempt_ledger.py`).
5. The unacknowledged slices that are not set aside weigh at most `max_outstanding` full slices, beside those of the
   last look at the fetched records; the others have a limit of their own (`streams/kafka/slice_room.py`). They take
   about that many times `fetch_max_bytes` bytes of memory, keys, headers and inflated bytes included, and one more
   record of any size. A slice weighs as much as its unanswered records, up to twice of them while others are dropped.
   So many small slices, and the rests of many large ones, may wait for a slow model server without holding back the
   others.
6. The producer is idempotent and waits for all in-sync replicas.

This module uses private names of faust-streaming and aiokafka, whose versions are pinned exactly;
`tests/contract/test_pinned_libraries.py` fails when a release changes these names.
"""

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import structlog
from aiokafka.errors import ConsumerStoppedError
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, AppT, ConsumerMessage
from faust.types.transports import SchedulingStrategyT
from mode.utils.futures import notify

from streams.kafka.aiokafka_consumer import TransportOptions
from streams.kafka.attempt_keeper import AttemptKeeper, first_offset
from streams.kafka.batch_producer import BatchProducer
from streams.kafka.batch_reader import BatchReader
from streams.kafka.broker_watch import BrokerWatch
from streams.kafka.committing import CommittingConsumer
from streams.kafka.offset_tracker import (
    FULL_SLICE_WEIGHT,
    Partition,
    Record,
    Slice,
    SliceLimits,
)
from streams.kafka.slices_in_hand import SlicesInHand

# Not `__name__`: Faust's services log under that name, and `streams/process/logs.py` hides that logger.
log = structlog.get_logger("streams.partitions")

COMMIT_INTERVAL_SECONDS = 1.0
REASSIGNMENT_LOOK_SECONDS = 0.05


class SliceScheduler(SchedulingStrategyT):
    """Yields all fetched records of a partition as one message; `_getmany` has limited their number."""

    def iterate(self, records: Mapping[TP, list[Record]]) -> Iterator[tuple[TP, Any]]:
        yield from records.items()


class SliceConsumer(CommittingConsumer):
    """Fetches the slices that the attempt ledger permits, and commits the offsets that the offset tracker permits."""

    transport: "SliceTransport"
    app: AppT
    consumer_stopped_errors: ClassVar[tuple[type[BaseException], ...]] = (ConsumerStoppedError,)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.in_hand = SlicesInHand()
        self._handing_over = False
        self._slot_freed = asyncio.Event()
        options = self.transport.options
        self._reader = BatchReader(options.batch_max_bytes, options.fetch_max_bytes)
        self._attempts = AttemptKeeper(self, self._ledger, self._reader, options.slice_max_records)

    # Fetching

    async def _getmany(self, active_partitions: set[TP] | None, timeout: float) -> Mapping[TP, list[Record]]:
        if not self.flow_active or not await self._slot_is_free(timeout):
            return {}
        if not self.has_positions:
            # Faust gives up the seek that follows an assignment after a while.
            await self.perform_seek()
            if not self.has_positions:
                return {}
        kafka = self.kafka
        fetcher = kafka._fetcher
        generation = self.app.consumer_generation_id
        deadline = time.monotonic() + timeout
        with fetcher._subscriptions.fetch_context():
            while True:
                if kafka._closed or fetcher._closed:
                    raise ConsumerStoppedError
                if fetcher._subscriptions.reassignment_in_progress:
                    await asyncio.sleep(REASSIGNMENT_LOOK_SECONDS)
                    return {}
                # Checked again after each wait. Without active partitions the fetcher would return records of all
                # partitions, and the caller would drop those of the inactive ones.
                if (
                    not self.flow_active
                    or not active_partitions
                    or generation != self.app.consumer_generation_id
                ):
                    return {}
                self.pass_over_lost_records()
                records = await self._attempts.fetched(fetcher, active_partitions)
                passed_over = self._reader.passed_over().items()
                # After a rebalance during the wait they are of an assignment that has ended.
                if generation == self.app.consumer_generation_id:
                    for tp, offset in passed_over:
                        self.offsets.pass_over(Partition(*tp), offset)
                if records is None:
                    await asyncio.sleep(REASSIGNMENT_LOOK_SECONDS)
                    return {}
                remaining = deadline - time.monotonic()
                if records or remaining <= 0:
                    return records
                await self._attempts.wait(fetcher, self._slot_freed, remaining)

    async def _slot_is_free(self, timeout: float) -> bool:
        limit = self.transport.options.max_outstanding * FULL_SLICE_WEIGHT
        if self.offsets.outstanding >= limit:
            self._slot_freed.clear()
            # A consumer that fetches nothing for five minutes would leave its group. Whether a busy worker makes
            # progress is for the watchdog to judge.
            with self.kafka._subscription.fetch_context():
                try:
                    await asyncio.wait_for(self._slot_freed.wait(), timeout)
                except TimeoutError:
                    return False
        return self.offsets.outstanding < limit

    def _to_message(self, tp: TP, record: Sequence[Record]) -> ConsumerMessage:
        first, last = record[0], record[-1]
        options = self.transport.options
        fetched = Slice(
            partition=Partition(*tp),
            records=record,
            generation=self.app.consumer_generation_id,
            received_at=time.monotonic(),
            limits=SliceLimits(options.slice_max_records, options.fetch_max_bytes),
            next_offset=self.position_after(tp, last.offset),
            attempt=self._ledger.attempt(Partition(*tp), first_offset(first)),
            topic_id=self.topics.id_of(tp.topic),
        )
        self.offsets.track(fetched)
        fetched.on_lighter(self._free_slot)
        return ConsumerMessage(
            tp.topic,
            tp.partition,
            last.offset,
            first.timestamp / 1000,
            0,
            None,
            None,
            fetched,  # type: ignore[arg-type]  # bytes elsewhere; the raw codec passes it through
            None,
            0,
            0,
            tp,
            generation_id=fetched.generation,
        )

    async def _drain_messages(self, fetcher: Any) -> None:
        # The stock loop also looks for gaps between offsets and drops supposed repeats, which the offset tracker
        # does not need, and it races each message against the suspension of the flow. Here the stream skips a
        # message that waited through a rebalance, because its generation is over.
        try:
            while not (self.should_stop or fetcher.should_stop):
                async for _, message in self.getmany(timeout=1.0):
                    await self.callback(message)
                await asyncio.sleep(0)
                if not self._active_partitions:
                    await self.look_for_topics()
        except (ConsumerStoppedError, asyncio.CancelledError):
            # While the app stops during a rebalance, Faust would treat the exception as a crash.
            if not self.app.should_stop:
                raise

    # Acknowledging and committing

    def ack(self, message: Any) -> bool:
        if message.acked:
            return False
        message.acked = True
        self._unacked_messages.discard(message)
        if message.value.generation == self.app.consumer_generation_id:
            self.offsets.acknowledge(message.value)
            self._ledger.finished(message.value.partition)
        self._slot_freed.set()
        notify(self._waiting_for_ack)
        return True

    def _free_slot(self, *_: object) -> None:
        self._slot_freed.set()

    def abandon_unacked(self) -> None:
        """Stop waiting for unacknowledged slices; the next owner of the partition reads them again."""
        self.offsets.clear()
        self._unacked_messages.clear()
        notify(self._waiting_for_ack)

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """Ignore gaps: those inside a slice and those left by compaction need no tracking."""

    async def on_stop(self) -> None:
        await self._attempts.give_back()
        await super().on_stop()

    # Assignment

    def may_begin(self, fetched: Slice) -> bool:
        """False for a slice whose partition goes or has gone; it is fetched again, by whoever gets the partition."""
        return not self._handing_over and self.offsets.is_tracked(fetched)

    async def wait_empty(self) -> None:
        """Wait for the slices in hand. In a rebalance, hand back those that take longer than the options allow.

        Then commit what is answered. The heartbeats go on meanwhile.
        """
        seconds = self.transport.options.hand_over_seconds
        if not self._handing_over or seconds is None:
            await super().wait_empty()
            return
        handed_back = await self.in_hand.finish(seconds)
        if handed_back:
            log.info("slices handed back", slices=handed_back)
        self._unacked_messages.clear()
        await self.maybe_wait_for_commit_to_finish()
        await self.force_commit()

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        self._handing_over = True
        try:
            await super().on_partitions_revoked(revoked)
            await self._attempts.give_back()
        finally:
            self._handing_over = False
            self.offsets.clear()
            self._slot_freed.set()

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        self.offsets.clear()
        self._slot_freed.set()
        self.has_positions = False
        self.lost.clear()
        self._attempts.close()
        await super().on_partitions_assigned(assigned, generation_id)
        log.info("partitions assigned", partitions=sorted(f"{tp.topic}/{tp.partition}" for tp in assigned))


class SliceTransport(driver.Transport):
    """The transport of a `WorkerApp`."""

    Consumer: ClassVar[type[SliceConsumer]] = SliceConsumer
    Producer: ClassVar[type[BatchProducer]] = BatchProducer

    def __init__(self, app: AppT, options: TransportOptions) -> None:
        super().__init__(app.conf.broker_consumer, app)
        self.options = options
        self.watch = BrokerWatch(options.bootstrap)
