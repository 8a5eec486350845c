# ruff: noqa: SLF001  # it rests on private names, as the docstring says
# ruff: noqa: ASYNC109  # the signatures are those of the base class
"""The batched transport: Faust's streaming at the price of one event for each slice of records.

Stock Faust pays about 80 µs of bookkeeping for each record. Here a slice of up to
`slice_max_records` consecutive records of one partition is one Faust message, so that the price
is paid once a slice. The consumer also runs on the worker's own event loop, not on a thread of
its own as the stock driver does: hand-overs between threads cost more than they spare when no
agent blocks the loop.

Invariants:
1. An offset is committed only when every record before it is acknowledged (`streams/kafka/offset_tracker.py`).
   The stock consumer commits past an unacknowledged first record.
2. A slice is acknowledged only after the delivery of all its outputs, by the agent; nothing here
   acknowledges on an exception.
3. Slices of an earlier assignment are forgotten: acknowledging them changes nothing.
4. What is handed out and not acknowledged weighs at most `max_outstanding` whole slices and one more,
   so at most about so many times `slice_max_records` records and `fetch_max_bytes` bytes, and one fetched
   buffer for each partition behind them, are in memory. Of small slices there may be many: those that
   wait for a slow model server keep no others from being worked on.
5. The producer is idempotent and waits for all in-sync replicas.

This rests on private names of faust-streaming and aiokafka, which are pinned exactly;
`tests/contract/test_pinned_libraries.py` fails when a release changes them. The module is over 300 lines
because it holds all classes that Faust finds through one driver module.
"""

import asyncio
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import aiokafka
import structlog
from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.consumer.fetcher import FetchResult
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.errors import CommitFailedError, ConsumerStoppedError, IllegalStateError, KafkaError
from aiokafka.structs import OffsetAndMetadata, TopicPartition
from faust.exceptions import ConsumerNotStarted
from faust.transport.consumer import Consumer
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, AppT, ConsumerMessage
from faust.types.transports import SchedulingStrategyT
from mode.utils.futures import notify

from streams.kafka.batch_producer import REQUEST_TIMEOUT_SECONDS, BatchProducer
from streams.kafka.batch_reader import install_batch_reader
from streams.kafka.offset_tracker import FULL_SLICE_WEIGHT, OffsetTracker, Partition, Record, Slice, weight_of
from streams.kafka.stopping import stop_consumer

# Faust's services log by the name of this module, and too much of it to be shown.
log = structlog.get_logger("streams.partitions")

SESSION_TIMEOUT_SECONDS = 8
HEARTBEAT_SECONDS = 2
COMMIT_INTERVAL_SECONDS = 1.0
REASSIGNMENT_LOOK_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class TransportOptions:
    """What the transport is told; `security` is passed to every aiokafka client."""

    bootstrap: str
    group_id: str
    client_id: str
    slice_max_records: int
    max_outstanding: int
    fetch_max_bytes: int
    security: Mapping[str, Any] = field(default_factory=dict)


class SliceScheduler(SchedulingStrategyT):
    """Hands each partition's records on as one; they were cut to size when they were fetched."""

    def iterate(self, records: Mapping[TP, list[Record]]) -> Iterator[tuple[TP, Any]]:
        yield from records.items()


class SliceConsumer(Consumer):
    """Reads slices, and commits by the offset tracker."""

    transport: "SliceTransport"
    app: AppT
    consumer_stopped_errors: ClassVar[tuple[type[BaseException], ...]] = (ConsumerStoppedError,)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.offsets = OffsetTracker()
        self._slot_freed = asyncio.Event()
        self._kafka: aiokafka.AIOKafkaConsumer | None = None

    @property
    def kafka(self) -> Any:
        """The aiokafka consumer; Faust asks for the assignment before it exists."""
        if self._kafka is None:
            raise ConsumerNotStarted("the consumer has not started")
        return self._kafka

    async def on_start(self) -> None:
        options = self.transport.options
        self._kafka = aiokafka.AIOKafkaConsumer(
            bootstrap_servers=options.bootstrap,
            group_id=options.group_id,
            client_id=options.client_id,
            partition_assignment_strategy=[RoundRobinPartitionAssignor],
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            max_partition_fetch_bytes=options.fetch_max_bytes,
            session_timeout_ms=SESSION_TIMEOUT_SECONDS * 1000,
            heartbeat_interval_ms=HEARTBEAT_SECONDS * 1000,
            request_timeout_ms=REQUEST_TIMEOUT_SECONDS * 1000,
            **options.security,
        )
        await self._kafka.start()

    async def on_stop(self) -> None:
        await super().on_stop()
        if self._kafka is not None:
            await stop_consumer(self._kafka)

    # Fetching

    async def _getmany(self, active_partitions: set[TP] | None, timeout: float) -> Mapping[TP, list[Record]]:
        if not self.flow_active or not await self._slot_is_free(timeout):
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
                # Looked at again after each wait. Without active partitions the fetcher would take from
                # all, and what is not active is thrown away further up: taken, but never handed out.
                if (
                    not self.flow_active
                    or not active_partitions
                    or generation != self.app.consumer_generation_id
                ):
                    return {}
                for fetched in fetcher._records.values():
                    if type(fetched) is FetchResult:
                        install_batch_reader(fetched)
                # Without a timeout it takes only what was taken over.
                records: Mapping[TP, list[Record]] = await fetcher.fetched_records(
                    active_partitions, timeout=0, max_records=self.transport.options.slice_max_records
                )
                remaining = deadline - time.monotonic()
                if records or remaining <= 0:
                    return records
                await _arrival(fetcher, remaining)

    async def _slot_is_free(self, timeout: float) -> bool:
        limit = self.transport.options.max_outstanding * FULL_SLICE_WEIGHT
        if self.offsets.outstanding >= limit:
            self._slot_freed.clear()
            try:
                await asyncio.wait_for(self._slot_freed.wait(), timeout)
            except TimeoutError:
                return False
        return self.offsets.outstanding < limit

    def _to_message(self, tp: TP, record: Sequence[Record]) -> ConsumerMessage:
        first, last = record[0], record[-1]
        options = self.transport.options
        handed = Slice(
            partition=Partition(*tp),
            records=record,
            generation=self.app.consumer_generation_id,
            received_at=time.monotonic(),
            weight=weight_of(record, options.slice_max_records, options.fetch_max_bytes),
        )
        self.offsets.track(handed)
        return ConsumerMessage(
            tp.topic,
            tp.partition,
            last.offset,
            first.timestamp / 1000,
            0,
            None,
            None,
            handed,  # type: ignore[arg-type]  # bytes elsewhere; the raw codec passes it through
            None,
            0,
            0,
            tp,
            generation_id=handed.generation,
        )

    async def _drain_messages(self, fetcher: Any) -> None:
        # The stock loop also looks for gaps between offsets and drops what it takes for repeats,
        # which the offset tracker does not need, and races each message against the flow's suspension. Here
        # a message that waits through a rebalance is skipped by the stream: its generation is over.
        try:
            while not (self.should_stop or fetcher.should_stop):
                async for _, message in self.getmany(timeout=1.0):
                    await self.callback(message)
                await asyncio.sleep(0)
        except (ConsumerStoppedError, asyncio.CancelledError):
            # Let out while the app stops in the middle of a rebalance, it would be taken for a crash.
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
        self._slot_freed.set()
        notify(self._waiting_for_ack)
        return True

    def abandon_unacked(self) -> None:
        """Wait no more for what is not acknowledged: it comes again, to whoever reads the topic then."""
        self.offsets.clear()
        self._unacked_messages.clear()
        notify(self._waiting_for_ack)

    def _filter_tps_with_pending_acks(self, topics: Any = None) -> Iterator[TP]:
        return (
            TP(*tp)
            for tp in self.offsets.partitions()
            if topics is None or tp in topics or tp.topic in topics
        )

    def _new_offset(self, tp: TP) -> int | None:
        return self.offsets.committable(Partition(*tp))

    async def _commit_offsets(
        self,
        offsets: Mapping[TP, int],
        start_new_transaction: bool = True,  # noqa: ARG002  # the base class's signature
    ) -> bool:
        assigned = self.assignment()
        mine = {tp: offset for tp, offset in offsets.items() if tp in assigned}
        if not mine or not await self._commit(mine):
            return False
        self._committed_offset.update(mine)
        return True

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        try:
            await self.kafka.commit(
                {TopicPartition(*tp): OffsetAndMetadata(offset, "") for tp, offset in offsets.items()}
            )
        except (CommitFailedError, IllegalStateError) as error:
            # Rebalanced meanwhile: the records come again to whoever holds the partition now.
            self.log.info("Commit refused: %s", error)
            return False
        except KafkaError as error:
            if not error.retriable:
                await self.crash(error)
            self.log.warning("Commit failed, next try in %s s: %r", self.commit_interval, error)
            return False
        return True

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """Offsets inside a slice, and those of compacted records, are no gaps."""

    # Assignment

    async def subscribe(self, topics: Iterable[str]) -> None:
        self.kafka.subscribe(topics=set(topics), listener=_RebalanceListener(self))

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        await super().on_partitions_revoked(revoked)
        self.offsets.clear()
        self._slot_freed.set()

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        self.offsets.clear()
        self._slot_freed.set()
        await super().on_partitions_assigned(assigned, generation_id)
        log.info("partitions assigned", partitions=sorted(f"{tp.topic}/{tp.partition}" for tp in assigned))

    def assignment(self) -> set[TP]:
        return {TP(*tp) for tp in self.kafka.assignment()}

    async def seek_to_committed(self) -> Mapping[TP, int]:
        positions: Mapping[TP, int] = await self.kafka.seek_to_committed()
        return positions

    async def _seek(self, partition: TP, offset: int) -> None:
        self.kafka.seek(TopicPartition(*partition), offset)

    async def seek_wait(self, partitions: Mapping[TP, int]) -> None:
        for tp, offset in partitions.items():
            self.kafka.seek(TopicPartition(*tp), offset)

    async def position(self, tp: TP) -> int | None:
        position: int = await self.kafka.position(TopicPartition(*tp))
        return position

    def highwater(self, tp: TP) -> int:
        highwater: int = self.kafka.highwater(TopicPartition(*tp))
        return highwater

    async def earliest_offsets(self, *partitions: TP) -> Mapping[TP, int]:
        offsets: Mapping[TP, int] = await self.kafka.beginning_offsets(partitions)
        return offsets

    async def highwaters(self, *partitions: TP) -> Mapping[TP, int]:
        offsets: Mapping[TP, int] = await self.kafka.end_offsets(partitions)
        return offsets

    def topic_partitions(self, topic: str) -> int | None:
        partitions = self.kafka.partitions_for_topic(topic)
        return len(partitions) if partitions else None

    def lag(self) -> int:
        """Records that are in the assigned partitions and were not handed out."""
        return sum(self.lags().values())

    def lags(self) -> dict[TP, int]:
        """The same for each of the partitions of which it is known."""
        subscription = self.kafka._subscription.subscription
        if subscription is None or subscription.assignment is None:
            return {}
        states = {TP(*tp): subscription.assignment.state_value(tp) for tp in subscription.assignment.tps}
        return {
            tp: max(0, state.highwater - state.position)
            for tp, state in states.items()
            if state.highwater is not None and state.has_valid_position
        }

    def is_caught_up(self, tp: TP) -> bool:
        """True when every record that the broker reported for `tp` was fetched; False before the first fetch."""
        subscription = self.kafka._subscription.subscription
        if subscription is None or subscription.assignment is None or tp not in subscription.assignment.tps:
            return False
        state = subscription.assignment.state_value(TopicPartition(*tp))
        known: bool = state.highwater is not None and state.has_valid_position
        return known and state.position >= state.highwater

    def _new_topicpartition(self, topic: str, partition: int) -> TP:
        return TP(topic, partition)

    def key_partition(self, topic: str, key: bytes | None, partition: int | None = None) -> int | None:
        raise NotImplementedError("no table needs to know where a key lives")

    async def create_topic(self, *args: Any, **kwargs: Any) -> None:
        raise NotImplementedError("topics are created beforehand, by `headrace init`")


class _RebalanceListener(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka is untyped
    def __init__(self, consumer: SliceConsumer) -> None:
        self._consumer = consumer

    async def on_partitions_revoked(self, revoked: Iterable[Any]) -> None:
        # First of all, so that the app knows before anything is awaited.
        self._consumer.app.on_rebalance_start()
        await self._consumer.on_partitions_revoked({TP(*tp) for tp in revoked})

    async def on_partitions_assigned(self, assigned: Iterable[Any]) -> None:
        generation = self._consumer.kafka._coordinator.generation
        self._consumer.app.consumer_generation_id = generation
        await self._consumer.on_partitions_assigned({TP(*tp) for tp in assigned}, generation)


class SliceTransport(driver.Transport):
    """Set as `app.transport`."""

    Consumer: ClassVar[type[SliceConsumer]] = SliceConsumer
    Producer: ClassVar[type[BatchProducer]] = BatchProducer

    def __init__(self, app: AppT, options: TransportOptions) -> None:
        super().__init__(app.conf.broker_consumer, app)
        self.options = options


async def _arrival(fetcher: Any, timeout_seconds: float) -> None:
    """Wait until the fetcher has something, or the time is over; raises what it found wrong."""
    waiter = fetcher._create_fetch_waiter()
    await asyncio.wait([waiter], timeout=timeout_seconds)
    if waiter.done():
        waiter.result()
    else:
        waiter.cancel()
