# ruff: noqa: SLF001  # it reads positions and the generation from private names
"""Faust's consumer interface on an aiokafka consumer: connection, assignment, positions and lag.

Fetching, acknowledging and committing are in `streams/kafka/transport.py`. `tests/contract/test_pinned_libraries.py`
holds the private names that this module uses.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import aiokafka
import structlog
from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.errors import KafkaError, UnknownTopicOrPartitionError
from aiokafka.structs import TopicPartition
from faust.exceptions import ConsumerNotStarted
from faust.transport.consumer import Consumer
from faust.types import TP, AppT

from streams.headrace_client.stopping import stop_consumer
from streams.kafka.batch_producer import METADATA_SECONDS, REQUEST_TIMEOUT_SECONDS
from streams.kafka.commit_metadata import CommitMetadata, decode_metadata
from streams.kafka.lost_records import LostRecords
from streams.kafka.memberships import Membership
from streams.kafka.offset_tracker import Partition
from streams.kafka.topic_identity import TopicIdentity, is_other

log = structlog.get_logger("streams.partitions")

SESSION_TIMEOUT_SECONDS = 8
HEARTBEAT_SECONDS = 2
# In a rebalance the members give up their partitions within this time: `hand_over_seconds` twice, and a commit.
REBALANCE_TIMEOUT_SECONDS = 20


@dataclass(frozen=True, slots=True)
class TransportOptions:
    """The configuration of a worker's consumer; `security` has keyword arguments for aiokafka's clients.

    `members_folder` is where the processes of a machine find each other's memberships.

    In a rebalance, slices have `hand_over_seconds` to finish, and are handed back unfinished then. None: they are
    waited for, and the group goes on without this member when they take too long.
    """

    bootstrap: str
    group_id: str
    client_id: str
    slice_max_records: int
    max_outstanding: int
    fetch_max_bytes: int
    batch_max_bytes: int
    members_folder: Path
    hand_over_seconds: float | None = None
    security: Mapping[str, Any] = field(default_factory=dict)


class TopicGoneError(KafkaError):  # type: ignore[misc]  # aiokafka is untyped
    """An offset was not committed, because the broker does not have its topic."""


class AiokafkaConsumer(Consumer):
    """Runs on the worker's own event loop; `transport` has the options."""

    # The SliceTransport, whose module imports this one.
    transport: Any
    app: AppT

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._kafka: aiokafka.AIOKafkaConsumer | None = None
        options = self.transport.options
        self._membership = Membership(options.members_folder, options.bootstrap, options.group_id)
        self.topics: TopicIdentity
        self.lost = LostRecords()
        self.has_positions = False
        """False from an assignment until the consumer is at the positions of its group."""
        self.taken_over: Mapping[TopicPartition, tuple[int, CommitMetadata]] = {}
        """The committed offsets of the assigned partitions and their metadata, as of the last seek to them."""

    @property
    def kafka(self) -> Any:
        """The aiokafka consumer; raises ConsumerNotStarted, because Faust asks for the assignment before the start."""
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
            isolation_level="read_committed",
            auto_offset_reset="earliest",
            max_partition_fetch_bytes=options.fetch_max_bytes,
            session_timeout_ms=SESSION_TIMEOUT_SECONDS * 1000,
            heartbeat_interval_ms=HEARTBEAT_SECONDS * 1000,
            rebalance_timeout_ms=REBALANCE_TIMEOUT_SECONDS * 1000,
            request_timeout_ms=REQUEST_TIMEOUT_SECONDS * 1000,
            metadata_max_age_ms=METADATA_SECONDS * 1000,
            **options.security,
        )
        self.transport.watch.follow(self._kafka._client)
        await self._kafka.start()
        coordinator = self._kafka._coordinator
        self.topics = TopicIdentity(
            self._kafka._client,
            on_recreated=coordinator.request_rejoin,
            on_out_of_range=self._on_out_of_range,
        )
        coordinator._do_commit_offsets = partial(_commit_once, coordinator._do_commit_offsets)
        await self._membership.open()
        coordinator._send_req = self._membership.noting(coordinator._send_req)

    async def on_stop(self) -> None:
        await super().on_stop()
        if self._kafka is not None:
            # aiokafka leaves the group of a generation only: a member that is about to join stays one.
            has_left = self._kafka._coordinator.generation > 0
            await stop_consumer(self._kafka)
            self._membership.close(has_left=has_left)

    async def subscribe(self, topics: Iterable[str]) -> None:
        self.kafka.subscribe(topics=set(topics), listener=_RebalanceListener(self))

    async def look_for_topics(self) -> None:
        """Ask the broker for subscribed topics that it did not have; aiokafka itself asks again after five minutes."""
        if not all(map(self.kafka.partitions_for_topic, self.kafka.subscription())):
            await self.kafka._client.force_metadata_update()

    def assignment(self) -> set[TP]:
        return {TP(*tp) for tp in self.kafka.assignment()}

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Seek to the committed offsets, or to the beginning of a topic that is not the one they were committed in."""
        assignment = self.kafka._subscription.subscription.assignment
        committed = await self.kafka._coordinator.fetch_committed_offsets(assignment.tps)
        metadata = {tp: decode_metadata(each.metadata) for tp, each in committed.items()}
        recreated = await self.topics.learn(
            {tp.topic for tp in assignment.tps}, {tp.topic: each.topic_id for tp, each in metadata.items()}
        )
        for topic in recreated:
            log.warning("topic was created again; it is read from its beginning", **topic._asdict())
        taken_over = {}
        for tp, each in metadata.items():
            if not assignment.active:
                # A rebalance came first; another seek follows it.
                return {}
            if is_other(each.topic_id, self.topics.id_of(tp.topic)):
                await self.kafka.seek_to_beginning(tp)
            else:
                taken_over[tp] = committed[tp].offset, each
                self.kafka.seek(tp, committed[tp].offset)
        self.has_positions = assignment.active
        self.taken_over = taken_over
        return {TP(*tp): offset for tp, (offset, _) in taken_over.items()}

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
        """Records of the assigned partitions that were not fetched yet, as of the last fetch."""
        return sum(self.lags().values())

    def lags(self) -> dict[TP, int]:
        """The lag by partition, for the partitions whose last stable offset is known.

        Records of transactions that are open are behind it.
        """
        subscription = self.kafka._subscription.subscription
        if subscription is None or subscription.assignment is None:
            return {}
        states = {TP(*tp): subscription.assignment.state_value(tp) for tp in subscription.assignment.tps}
        return {
            tp: max(0, state.lso - state.position)
            for tp, state in states.items()
            if state.lso is not None and state.has_valid_position
        }

    def is_caught_up(self, tp: TP) -> bool:
        """True when every record that the broker reported for `tp` was fetched; False before the first fetch."""
        state = self._state_of(tp)
        return (
            state is not None
            and state.lso is not None
            and state.has_valid_position
            and bool(state.position >= state.lso)
        )

    def position_of(self, tp: TP) -> int | None:
        """The offset to read next; None while it is not known."""
        state = self._state_of(tp)
        return state.position if state is not None and state.has_valid_position else None

    def position_after(self, tp: TP, offset: int) -> int:
        """The offset to read next after a record that was just taken, beyond the markers of transactions behind it."""
        return max(offset + 1, self.position_of(tp) or 0)

    def note_lost_records(self) -> dict[Partition, int]:
        """Count the records that were deleted unread; returns where their partitions continue."""
        continued = {}
        for partition in self.lost.waiting:
            # A new position that aiokafka has before any record was taken is where it continues after lost records.
            position = self.position_of(TP(*partition))
            if position is not None:
                self.lost.moved(partition, position)
                continued[partition] = position
        return continued

    def _on_out_of_range(self, partition: Partition, offset: int) -> None:
        """Called before aiokafka gives up the position; it ignores the response when it has another one by now."""
        state = self._state_of(TP(*partition))
        if state is not None and state.has_valid_position and state.position == offset:
            self.lost.refused(partition, offset)

    def _state_of(self, tp: TP) -> Any:
        """Aiokafka's state of an assigned partition; None of another one."""
        subscription = self.kafka._subscription.subscription
        if subscription is None or subscription.assignment is None:
            return None
        return subscription.assignment.state_value(tp)

    def _new_topicpartition(self, topic: str, partition: int) -> TP:
        return TP(topic, partition)

    def key_partition(self, topic: str, key: bytes | None, partition: int | None = None) -> int | None:
        raise NotImplementedError("Headrace has no tables")

    async def create_topic(self, *args: Any, **kwargs: Any) -> None:
        raise NotImplementedError("`headrace init` creates the topics")


async def _commit_once(commit: Callable[..., Awaitable[None]], *args: Any) -> None:
    """Commit; raises TopicGoneError for a topic that is not there.

    aiokafka would commit each 0.1 s until there is such a topic: the offset of a deleted topic would be committed in the
    topic that is made in its place, whose records before it would never be read.
    """
    try:
        await commit(*args)
    except UnknownTopicOrPartitionError as error:
        raise TopicGoneError(str(error)) from error


class _RebalanceListener(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka is untyped
    def __init__(self, consumer: AiokafkaConsumer) -> None:
        self._consumer = consumer

    async def on_partitions_revoked(self, revoked: Iterable[Any]) -> None:
        # The app must know of the rebalance before the first await.
        self._consumer.app.on_rebalance_start()
        await self._consumer.on_partitions_revoked({TP(*tp) for tp in revoked})

    async def on_partitions_assigned(self, assigned: Iterable[Any]) -> None:
        generation = self._consumer.kafka._coordinator.generation
        self._consumer.app.consumer_generation_id = generation
        await self._consumer.on_partitions_assigned({TP(*tp) for tp in assigned}, generation)
