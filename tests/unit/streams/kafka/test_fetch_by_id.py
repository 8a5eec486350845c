"""A fetch by ids is answered to aiokafka's fetcher as a fetch by names."""

from io import BytesIO
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from aiokafka.errors import OffsetOutOfRangeError, UnknownTopicOrPartitionError
from aiokafka.protocol.fetch import FetchRequest

from streams.kafka.fetch_by_id import FetchById, with_names
from streams.kafka.offset_tracker import Partition

ID = UUID("4c8b8f0e-6a6b-4f3e-9d0a-0c1d2e3f4a5b")
IDS = {"t": str(ID)}
BY_NAME = FetchRequest(500, 1, 1000, 1, [("t", [(3, 77, 900)])], rack_id="")
OLD_BROKER, NEW_BROKER = {1: (4, 12)}, {1: (4, 17)}


def response(error: int, records: bytes | None = b"records") -> Any:
    """The response of a broker to FetchById, through its bytes."""
    kind = FetchById(BY_NAME, IDS).prepare(NEW_BROKER).RESPONSE_TYPE
    partition: Any = (3, error, 100, 90, 10, [(7, 80, {})], -1, records, {})
    return kind.decode(BytesIO(kind(0, 0, 0, [(ID, [partition], {})], {}).encode()))


def test_it_asks_by_the_id() -> None:
    """The position and the limits are those of the fetch by name."""
    request = FetchById(BY_NAME, IDS).prepare(NEW_BROKER)
    read = type(request).decode(request.encode())
    assert (read.API_KEY, read.API_VERSION) == (1, 13)
    assert (read.max_wait_time, read.min_bytes, read.max_bytes, read.isolation_level) == (500, 1, 1000, 1)
    ((topic_id, ((partition, _, offset, _, _, max_bytes, _),), _),) = read.topics
    assert (topic_id, partition, offset, max_bytes) == (ID, 3, 77, 900)


def test_an_old_broker_is_asked_by_name() -> None:
    """Before Kafka 3.1 there is no fetch by ids."""
    request = FetchById(BY_NAME, IDS).prepare(OLD_BROKER)
    assert request.API_VERSION == 11
    assert request.topics[0][0] == "t"


def test_a_response_has_names() -> None:
    """In the layout that the fetcher reads."""
    named = with_names(response(0), IDS)
    assert named.topics == [("t", [(3, 0, 100, 90, 10, [(7, 80)], -1, b"records")])]
    assert named.API_VERSION == 11
    assert named.failures() == {}


def test_no_records_are_no_bytes() -> None:
    """Later versions may write null."""
    ((_, (partition,)),) = with_names(response(0, None), IDS).topics
    assert partition[-1] == b""


@pytest.mark.parametrize("error", [100, 103, 3])
def test_a_topic_that_is_gone_is_unknown(error: int) -> None:
    """Whether the broker has another topic of the name, or none."""
    named = with_names(response(error), IDS)
    assert named.failures() == {Partition("t", 3): UnknownTopicOrPartitionError.errno}


def test_a_response_of_an_old_broker_is_as_it_was() -> None:
    """It is a response to a fetch by names."""
    old = SimpleNamespace(API_VERSION=10, topics=[("t", [(3, 1, -1)])])
    named = with_names(old, IDS)
    assert (named.API_VERSION, named.topics) == (10, old.topics)
    assert named.failures() == {Partition("t", 3): OffsetOutOfRangeError.errno}
