"""Positions belong to a topic by its id; another topic of the name makes the group rejoin, once."""

from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from aiokafka.errors import KafkaConnectionError, KafkaError, TopicAuthorizationFailedError
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.offset import OffsetRequest

from streams.kafka import topic_identity
from streams.kafka.fetch_by_id import FetchById
from streams.kafka.offset_tracker import Partition
from streams.kafka.topic_identity import Recreated, TopicIdentity, is_other

A, B = str(UUID(int=1)), str(UUID(int=2))
OUT_OF_RANGE, UNKNOWN_TOPIC, UNKNOWN_TOPIC_ID = 1, 3, 100
FETCH = FetchRequest(500, 1, 1000, 1, [("t", [(0, 5, 900)])])


class Cluster:
    """A cluster with one topic, and a consumer of it; `present` has the topic's ids by its next answers."""

    def __init__(self, *present: str | KafkaError | None) -> None:
        self.present: list[Any] = list(present)
        self.fetch_error = 0
        self.sent: list[Any] = []
        self.rejoined = 0
        self.client: Any = SimpleNamespace(send=self._answer, get_random_node=lambda: 1)
        self.out_of_range: list[tuple[Partition, int]] = []
        self.topics = TopicIdentity(
            self.client,
            on_recreated=self._rejoin,
            on_out_of_range=lambda *place: self.out_of_range.append(place),
        )

    def _rejoin(self) -> None:
        self.rejoined += 1

    async def _answer(self, _: int, request: Any) -> Any:
        self.sent.append(request)
        if isinstance(request, FetchById):
            return SimpleNamespace(
                API_VERSION=13,
                topics=[(UUID(request._ids["t"]), [(0, self.fetch_error, 9, 9, 0, [], -1, b"", {})], {})],
            )
        if isinstance(request, FetchRequest | OffsetRequest):
            return SimpleNamespace(
                API_VERSION=11, topics=[("t", [(0, self.fetch_error, 9, 9, 0, [], -1, b"")])]
            )
        topic_id = self.present.pop(0) if len(self.present) > 1 else self.present[0]
        if isinstance(topic_id, KafkaError):
            raise topic_id
        found = (
            (UNKNOWN_TOPIC, "t", UUID(int=0))
            if topic_id is None
            else (0, "t", UUID(topic_id or str(UUID(int=0))))
        )
        return SimpleNamespace(API_VERSION=10, topics=[found])


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topic_identity, "RETRY_SECONDS", 0)


def test_unknown_ids_are_no_others() -> None:
    """Offsets of earlier releases have no id, nor have the topics of old brokers."""
    assert is_other(A, B)
    assert not is_other(A, A)
    assert not is_other("", B)
    assert not is_other(A, "")


async def test_it_waits_for_the_topic() -> None:
    """The topic is gone at first, and no broker answers then."""
    cluster = Cluster(None, KafkaConnectionError(), A)
    await cluster.topics.learn({"t"}, {})
    assert cluster.topics.id_of("t") == A
    assert cluster.topics.recreated_total == {}


async def test_other_errors_are_raised() -> None:
    """Those that do not pass by themselves."""
    cluster = Cluster(TopicAuthorizationFailedError())
    with pytest.raises(TopicAuthorizationFailedError):
        await cluster.topics.learn({"t"}, {})


async def test_fetches_name_the_id() -> None:
    """Once it is known; other requests are as they were."""
    cluster = Cluster(A)
    await cluster.client.send(1, FETCH)
    await cluster.topics.learn({"t"}, {})
    await cluster.client.send(1, FETCH)
    offsets = OffsetRequest(-1, 1, [])
    await cluster.client.send(1, offsets)
    assert [type(each) for each in cluster.sent if isinstance(each, FetchRequest | FetchById)] == [
        FetchRequest,
        FetchById,
    ]
    assert cluster.sent[-1] is offsets


async def test_a_topic_without_an_id_is_fetched_by_its_name() -> None:
    """Old brokers have none."""
    cluster = Cluster("")
    await cluster.topics.learn({"t"}, {"t": A})
    await cluster.client.send(1, FETCH)
    assert cluster.sent[-1] is FETCH
    assert cluster.topics.recreated_total == {}


async def test_another_topic_makes_the_group_rejoin_once() -> None:
    """While its name is gone there is nothing to rejoin for; aiokafka sees that itself."""
    cluster = Cluster(A, None, B)
    await cluster.topics.learn({"t"}, {})
    cluster.fetch_error = UNKNOWN_TOPIC_ID
    await cluster.client.send(1, FETCH)
    assert (cluster.rejoined, cluster.topics.is_recreated("t")) == (0, False)
    await cluster.client.send(1, FETCH)
    await cluster.client.send(1, FETCH)
    assert (cluster.rejoined, cluster.topics.is_recreated("t")) == (1, True)
    await cluster.topics.learn({"t"}, {"t": A})
    assert (cluster.topics.id_of("t"), cluster.topics.is_recreated("t")) == (B, False)
    await cluster.topics.learn({"t"}, {"t": A})
    assert cluster.topics.recreated_total == {"t": 1}


async def test_a_topic_that_is_there_is_no_other() -> None:
    """A broker may not know the id of a topic yet that was just created."""
    cluster = Cluster(A)
    await cluster.topics.learn({"t"}, {})
    cluster.fetch_error = UNKNOWN_TOPIC_ID
    await cluster.client.send(1, FETCH)
    assert cluster.rejoined == 0


async def test_offsets_of_another_topic_are_noticed() -> None:
    """By a worker that has never read the old one."""
    cluster = Cluster(B)
    assert await cluster.topics.learn({"t"}, {"t": A}) == [Recreated("t", B, A)]
    assert cluster.topics.recreated_total == {"t": 1}


@pytest.mark.parametrize("topic_id", [A, ""])
async def test_a_fetch_without_a_record_is_reported(topic_id: str) -> None:
    """With the offset that it asked for, by id or by name."""
    cluster = Cluster(topic_id)
    await cluster.topics.learn({"t"}, {})
    cluster.fetch_error = OUT_OF_RANGE
    await cluster.client.send(1, FETCH)
    assert cluster.out_of_range == [(Partition("t", 0), 5)]
