"""PURE. The metadata of a committed offset: what the next owner of the partition must know beside the offset.

Kafka stores a text with each committed offset, up to 4,096 bytes by default. Headrace writes JSON:

    {"v":1,"begun":[[1203,2],[2000,1]]}

Here the records from the committed offset up to 1202 may have been begun twice, and those up to 1999 once. The text is
empty when there is nothing to say.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple
from uuid import UUID

import orjson

_FORMAT_VERSION = 1
# More than Headrace writes; a longer list is not ours.
_MAX_RANGES = 16
MAX_ATTEMPTS = 100
_MAX_OFFSET = 2**63 - 1


class BegunRange(NamedTuple):
    """The records before the offset `end`, and not in an earlier range, may have been begun `attempts` times."""

    end: int
    attempts: int


@dataclass(frozen=True, slots=True)
class CommitMetadata:
    """The content of the metadata; `begun` has rising ends and falling attempts."""

    begun: tuple[BegunRange, ...] = ()
    topic_id: str = ""
    """The id of the topic that the offset is a position in; empty when it is not known."""
    parsing: bool = False
    """The batch at the committed offset was being parsed, and none of its records was begun since then."""


def encode_metadata(metadata: CommitMetadata) -> str:
    """The text to commit with an offset."""
    if metadata == CommitMetadata():
        return ""
    content: dict[str, Any] = {"v": _FORMAT_VERSION}
    if metadata.begun:
        content["begun"] = [list(each) for each in metadata.begun]
    if metadata.topic_id:
        content["topic_id"] = metadata.topic_id
    if metadata.parsing:
        content["parsing"] = True
    return orjson.dumps(content).decode()


def decode_metadata(text: str | None) -> CommitMetadata:
    """The content of a committed text.

    Other programs commit other texts, and a later version may write another format: what cannot be read says nothing.
    """
    try:
        content = orjson.loads(text or "")
    except orjson.JSONDecodeError:
        return CommitMetadata()
    if not isinstance(content, dict) or content.get("v") != _FORMAT_VERSION:
        return CommitMetadata()
    return CommitMetadata(
        begun=_begun(content.get("begun")),
        topic_id=_topic_id(content.get("topic_id")),
        parsing=content.get("parsing") is True,
    )


def _begun(ranges: Any) -> tuple[BegunRange, ...]:
    """The ranges of a decoded JSON value; empty when one of them is not valid."""
    if not isinstance(ranges, list) or len(ranges) > _MAX_RANGES or not all(map(_is_range, ranges)):
        return ()
    begun = tuple(BegunRange(*each) for each in ranges)
    return begun if _is_ordered(begun) else ()


def _topic_id(value: Any) -> str:
    try:
        return str(UUID(value)) if isinstance(value, str) else ""
    except ValueError:
        return ""


def _is_range(value: Any) -> bool:
    match value:
        case [int(end), int(attempts)]:
            # A Boolean is an int to Python.
            is_number = type(end) is type(attempts) is int
            return is_number and 0 <= end <= _MAX_OFFSET and 1 <= attempts <= MAX_ATTEMPTS
    return False


def _is_ordered(begun: Sequence[BegunRange]) -> bool:
    return all(one.end < two.end and one.attempts > two.attempts for one, two in pairwise(begun))
