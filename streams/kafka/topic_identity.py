"""Binds the positions of a consumer to the topics that they are positions in.

A name is not enough: a topic that is deleted and created again has its own offsets, and aiokafka would go on reading
at the old position. Here a consumer reads the ids of its topics at each assignment, fetches by them, and commits each
offset with the id of its topic. A fetch by the id of a topic that is gone fails, whatever the new topic contains.
Then the consumer is told, and starts where the new topic begins: in a group it rejoins, so that every member does.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from aiokafka.errors import KafkaError, OffsetOutOfRangeError, UnknownTopicOrPartitionError
from aiokafka.protocol.fetch import FetchRequest

from streams.kafka.fetch_by_id import FetchById, with_names
from streams.kafka.offset_tracker import Partition
from streams.kafka.topic_ids import read_topic_ids

RETRY_SECONDS = 0.1

_UNKNOWN_TOPIC = UnknownTopicOrPartitionError.errno
_OUT_OF_RANGE = OffsetOutOfRangeError.errno


class Recreated(NamedTuple):
    """A topic that is another one than before, with the ids of both."""

    topic: str
    topic_id: str
    topic_id_before: str


class TopicIdentity:
    """The ids of the topics that a consumer reads, by its aiokafka client, which must have started.

    A topic has no id, which is the empty string here, on brokers older than Kafka 3.1. It is then read by its name.
    """

    def __init__(
        self,
        client: Any,
        *,
        on_recreated: Callable[[], None],
        on_out_of_range: Callable[[Partition, int], None],
    ) -> None:
        """`on_recreated` is called when another topic is seen in the place of one.

        `on_out_of_range` gets the partition and the offset of a fetch where the broker has no record.
        """
        self.recreated_total: Counter[str] = Counter()
        """How often each topic was found to be another one of the same name."""
        self._client = client
        self._on_recreated = on_recreated
        self._send = self._client.send
        self._client.send = self._send_by_id
        self._on_out_of_range = on_out_of_range
        self._ids: dict[str, str] = {}
        self._recreated: set[str] = set()

    def id_of(self, topic: str) -> str:
        """The id of the topic that the positions of this assignment belong to."""
        return self._ids.get(topic, "")

    def is_recreated(self, topic: str) -> bool:
        """True from when another topic of this name is seen until the next assignment."""
        return topic in self._recreated

    async def learn(self, topics: Collection[str], committed: Mapping[str, str]) -> list[Recreated]:
        """Read the ids of the assigned topics; returns those that were created again. Waits until the cluster has them.

        `committed` has the ids of the topics that the group has committed offsets in.
        """
        present = await self._present_ids(topics)
        while not present.keys() >= set(topics):
            await asyncio.sleep(RETRY_SECONDS)
            present = await self._present_ids(topics)
        recreated = [
            Recreated(topic, topic_id, before)
            for topic, topic_id in present.items()
            if is_other(before := self._ids.get(topic) or committed.get(topic, ""), topic_id)
        ]
        self.recreated_total.update(each.topic for each in recreated)
        self._ids = present
        self._recreated.clear()
        return recreated

    async def _present_ids(self, topics: Collection[str]) -> dict[str, str]:
        """The ids of those topics that the cluster has; empty while no broker answers."""
        try:
            return await read_topic_ids(self._client, self._send, topics)
        except KafkaError as error:
            if not error.retriable:
                raise
            return {}

    async def _send_by_id(self, node_id: Any, request: Any, **options: Any) -> Any:
        """In place of the client's `send`: fetches by the ids of the topics."""
        if type(request) is not FetchRequest:
            return await self._send(node_id, request, **options)
        ids = self._ids
        has_ids = all(map(self.id_of, dict(request.topics)))
        asked = FetchById(request, ids) if has_ids else request
        response = with_names(await self._send(node_id, asked, **options), ids)
        if failures := response.failures():
            await self._note_failures(request, failures)
        return response

    async def _note_failures(self, request: FetchRequest, failures: Mapping[Partition, int]) -> None:
        if unknown := {each.topic for each, code in failures.items() if code == _UNKNOWN_TOPIC}:
            # The fetcher would ask again at once.
            await asyncio.sleep(RETRY_SECONDS)
            await self._look_for_others(unknown)
        for topic, partitions in request.topics:
            for number, offset, _ in partitions:
                if failures.get(Partition(topic, number)) == _OUT_OF_RANGE:
                    self._on_out_of_range(Partition(topic, number), offset)

    async def _look_for_others(self, topics: Collection[str]) -> None:
        """Tell the consumer when the cluster has other topics of these names."""
        present = await self._present_ids(topics)
        others = {topic for topic, topic_id in present.items() if is_other(self.id_of(topic), topic_id)}
        if others - self._recreated:
            self._recreated |= others
            self._on_recreated()


def is_other(topic_id: str, present_id: str) -> bool:
    """PURE. Whether two ids are known and belong to different topics."""
    return bool(topic_id and present_id and topic_id != present_id)
