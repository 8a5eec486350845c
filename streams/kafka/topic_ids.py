"""Reads the ids of topics, which a topic that is deleted and created again does not keep (KIP-516).

aiokafka 0.14 asks for metadata without ids. The layout is that of version 10 in Kafka's MetadataRequest.json. With a
broker before Kafka 2.8 topics have no id.
"""

from collections.abc import Iterable, Sequence
from io import BytesIO
from typing import Any
from uuid import UUID

from aiokafka.errors import UnknownTopicOrPartitionError
from aiokafka.protocol.abstract import AbstractType
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.metadata import MetadataRequest_v1
from aiokafka.protocol.types import Boolean, CompactArray, CompactString, Int16, Int32, Schema, TaggedFields

_METADATA, _METADATA_VERSION = 3, 10
_UNKNOWN_TOPIC = UnknownTopicOrPartitionError.errno


class TopicIdType(AbstractType[UUID]):  # type: ignore[misc]  # aiokafka is untyped
    """A field with an id, as 16 bytes."""

    @classmethod
    def encode(cls, value: UUID) -> bytes:
        return value.bytes

    @classmethod
    def decode(cls, data: BytesIO) -> UUID:
        return UUID(bytes=data.read(16))


TAGS = ("tags", TaggedFields)
"""The last field of each structure in the newer layouts."""


class _MetadataResponse(Response):  # type: ignore[misc]  # aiokafka is untyped
    API_KEY = _METADATA
    API_VERSION = _METADATA_VERSION
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            CompactArray(
                ("node_id", Int32),
                ("host", CompactString()),
                ("port", Int32),
                ("rack", CompactString()),
                TAGS,
            ),
        ),
        ("cluster_id", CompactString()),
        ("controller_id", Int32),
        (
            "topics",
            CompactArray(
                ("error_code", Int16),
                ("topic", CompactString()),
                ("topic_id", TopicIdType),
                ("is_internal", Boolean),
                (
                    "partitions",
                    CompactArray(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", CompactArray(Int32)),
                        ("isr", CompactArray(Int32)),
                        ("offline_replicas", CompactArray(Int32)),
                        TAGS,
                    ),
                ),
                ("authorized_operations", Int32),
                TAGS,
            ),
        ),
        ("authorized_operations", Int32),
        TAGS,
    )


class _MetadataRequest(RequestStruct):  # type: ignore[misc]  # aiokafka is untyped
    API_KEY = _METADATA
    API_VERSION = _METADATA_VERSION
    RESPONSE_TYPE = _MetadataResponse
    FLEXIBLE_VERSION = True
    SCHEMA = Schema(
        ("topics", CompactArray(("topic_id", TopicIdType), ("topic", CompactString()), TAGS)),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_authorized_operations", Boolean),
        ("include_topic_authorized_operations", Boolean),
        TAGS,
    )


class _TopicIdsRequest(Request[MetadataRequest_v1 | _MetadataRequest]):  # type: ignore[misc]  # aiokafka is untyped
    API_KEY = _METADATA

    def __init__(self, topics: Sequence[str]) -> None:
        self._topics = topics

    def build(self, request_struct_class: Any) -> Any:
        if request_struct_class is MetadataRequest_v1:
            return MetadataRequest_v1(self._topics)
        topics: Any = [(UUID(int=0), topic, {}) for topic in self._topics]
        return _MetadataRequest(topics, False, False, False, {})  # fields of the protocol


async def read_topic_ids(client: Any, send: Any, topics: Iterable[str]) -> dict[str, str]:
    """The ids of the topics that the cluster has: "" for a topic without an id, or that we may not describe.

    `client` is an aiokafka client, and `send` its method of that name. Raises KafkaError.
    """
    response = await send(client.get_random_node(), _TopicIdsRequest(list(topics)))
    ids = {}
    for error_code, topic, *fields in response.topics:
        if error_code == _UNKNOWN_TOPIC:
            continue
        has_id = response.API_VERSION == _METADATA_VERSION and fields[0].int != 0
        ids[topic] = str(fields[0]) if has_id else ""
    return ids
