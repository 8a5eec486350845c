# ruff: noqa: SLF001  # the fields of aiokafka's request have private names only
"""A fetch that names its topics by their ids, so that it fails when a topic is another one of the same name.

aiokafka 0.14 fetches by names. The layout is that of version 13 in Kafka's FetchRequest.json. A broker before Kafka
3.1 gets aiokafka's own request.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from aiokafka.errors import UnknownTopicOrPartitionError
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.types import (
    CompactArray,
    CompactBytes,
    CompactString,
    Int8,
    Int16,
    Int32,
    Int64,
    Schema,
)

from streams.kafka.offset_tracker import Partition
from streams.kafka.topic_ids import TAGS, TopicIdType

_FETCH, _FETCH_VERSION = 1, 13
_UNKNOWN_TOPIC = UnknownTopicOrPartitionError.errno
_UNKNOWN_TOPIC_ID, _INCONSISTENT_TOPIC_ID = 100, 103
# The version whose layout aiokafka's fetcher reads.
_READ_AS_VERSION = 11
_NOT_KNOWN, _NONE = -1, 0


class _FetchResponse(Response):  # type: ignore[misc]  # aiokafka is untyped
    API_KEY = _FETCH
    API_VERSION = _FETCH_VERSION
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("error_code", Int16),
        ("session_id", Int32),
        (
            "topics",
            CompactArray(
                ("topic_id", TopicIdType),
                (
                    "partitions",
                    CompactArray(
                        ("partition", Int32),
                        ("error_code", Int16),
                        ("highwater_offset", Int64),
                        ("last_stable_offset", Int64),
                        ("log_start_offset", Int64),
                        (
                            "aborted_transactions",
                            CompactArray(("producer_id", Int64), ("first_offset", Int64), TAGS),
                        ),
                        ("preferred_read_replica", Int32),
                        ("message_set", CompactBytes),
                        TAGS,
                    ),
                ),
                TAGS,
            ),
        ),
        TAGS,
    )


class _FetchRequest(RequestStruct):  # type: ignore[misc]  # aiokafka is untyped
    API_KEY = _FETCH
    API_VERSION = _FETCH_VERSION
    RESPONSE_TYPE = _FetchResponse
    FLEXIBLE_VERSION = True
    SCHEMA = Schema(
        ("replica_id", Int32),
        ("max_wait_time", Int32),
        ("min_bytes", Int32),
        ("max_bytes", Int32),
        ("isolation_level", Int8),
        ("session_id", Int32),
        ("session_epoch", Int32),
        (
            "topics",
            CompactArray(
                ("topic_id", TopicIdType),
                (
                    "partitions",
                    CompactArray(
                        ("partition", Int32),
                        ("current_leader_epoch", Int32),
                        ("fetch_offset", Int64),
                        ("last_fetched_epoch", Int32),
                        ("log_start_offset", Int64),
                        ("max_bytes", Int32),
                        TAGS,
                    ),
                ),
                TAGS,
            ),
        ),
        (
            "forgotten_topics_data",
            CompactArray(("topic_id", TopicIdType), ("partitions", CompactArray(Int32)), TAGS),
        ),
        ("rack_id", CompactString()),
        TAGS,
    )


class FetchById(Request[_FetchRequest]):  # type: ignore[misc]  # aiokafka is untyped
    """aiokafka's fetch request with the ids of its topics in place of their names."""

    API_KEY = _FETCH

    def __init__(self, by_name: FetchRequest, ids: Mapping[str, str]) -> None:
        self._by_name = by_name
        self._ids = ids

    def prepare(self, versions: Mapping[int, tuple[int, int]]) -> Any:
        """The request in a version of the broker: by names, where it does not know the version with ids."""
        lowest, highest = versions.get(_FETCH, (_NONE, _NONE))
        if lowest <= _FETCH_VERSION <= highest:
            return self.build(_FetchRequest)
        return self._by_name.prepare(versions)

    def build(self, request_struct_class: Any) -> Any:
        asked = self._by_name
        topics: Any = [
            (
                UUID(self._ids[topic]),
                [
                    (partition, _NOT_KNOWN, offset, _NOT_KNOWN, _NOT_KNOWN, max_bytes, {})
                    for partition, offset, max_bytes in partitions
                ],
                {},
            )
            for topic, partitions in asked.topics
        ]
        return request_struct_class(
            _NOT_KNOWN,
            asked._max_wait_ms,
            asked._min_bytes,
            asked._max_bytes,
            asked._isolation_level,
            _NONE,
            _NOT_KNOWN,
            topics,
            [],
            asked._rack_id,
            {},
        )


@dataclass(frozen=True, slots=True)
class FetchedByName:
    """What aiokafka's fetcher reads of a response."""

    topics: Sequence[tuple[str, Sequence[tuple[Any, ...]]]]
    API_VERSION: int

    def failures(self) -> dict[Partition, int]:
        """The error codes of the partitions that were answered with one."""
        return {
            Partition(topic, partition): code
            for topic, partitions in self.topics
            for partition, code, *_ in partitions
            if code
        }


def with_names(response: Any, ids: Mapping[str, str]) -> FetchedByName:
    """The response to a `FetchById`, as the response to a fetch by names."""
    if response.API_VERSION != _FETCH_VERSION:
        return FetchedByName(response.topics, response.API_VERSION)
    names = {UUID(topic_id): topic for topic, topic_id in ids.items()}
    topics = [
        (names[topic_id], [_as_read(*partition) for partition in partitions])
        for topic_id, partitions, _ in response.topics
    ]
    return FetchedByName(topics, _READ_AS_VERSION)


def _as_read(partition: int, error: int, *fields: Any) -> tuple[Any, ...]:
    highwater, stable, start, aborted, replica, records, _ = fields
    return (
        partition,
        _UNKNOWN_TOPIC if error in (_UNKNOWN_TOPIC_ID, _INCONSISTENT_TOPIC_ID) else error,
        highwater,
        stable,
        start,
        None if aborted is None else [(producer, first) for producer, first, _ in aborted],
        replica,
        # Kafka writes no records as null where the older versions write no bytes.
        records or b"",
    )
