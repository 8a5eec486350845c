"""PURE. The headers that name a record in what is written for it.

An offset names a record of one topic only: a topic that is deleted and created again has others at the same offsets.
So its id belongs to the name. Repeats of a response have the same two headers, and no other response has both.
"""

from base64 import urlsafe_b64encode
from uuid import UUID

from streams.kafka.offset_tracker import Partition

SOURCE, TOPIC_ID = "headrace-source", "headrace-topic-id"

Headers = list[tuple[str, bytes]]


def source_headers(partition: Partition, offset: int, topic_id: str) -> Headers:
    """The place of a record, and the id of its topic."""
    place = f"{partition.topic}/{partition.partition}/{offset}"
    return [(SOURCE, place.encode()), *topic_id_headers(topic_id)]


def topic_id_headers(topic_id: str) -> Headers:
    """The id of a topic as Kafka's tools show it; no header for a topic without an id, which is empty."""
    if not topic_id:
        return []
    return [(TOPIC_ID, urlsafe_b64encode(UUID(topic_id).bytes).rstrip(b"="))]
