"""PURE. The records that competitors are given, made from their numbers alone.

Every record of a topic has an input of its own, so that a cold cache misses each and a warm one hits
each: repeats inside a run speed up no competitor.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

PARTITIONS: Final = 4
MODEL_NAME: Final = "product-recommendations"
USERS, ITEMS, CONTEXT, TOP = 943, 1682, 6, 10

_REQUEST_ID = "00000000-0000-4000-8000-{:012x}"
_REQUEST = (
    '{{"request_id":"{id}","model_name":"{model}","user_id":"{user}",'
    '"input":{{"user_idx":{user_idx},"context":[{context}]}}}}'
)
_OPEN_INFERENCE = (
    '{{"id":"{id}","inputs":[{{"name":"user_idx","shape":[1],"datatype":"INT64","data":[{user_idx}]}},'
    '{{"name":"context","shape":[1,6],"datatype":"FP32","data":[{context}]}}]}}'
)


class Dialect(StrEnum):
    """What the records of an input topic are written as."""

    PREDICT = "predict"
    OPEN_INFERENCE = "open-inference"


@dataclass(frozen=True, slots=True)
class Message:
    """One record, to be written to `partition`."""

    partition: int
    key: bytes
    value: bytes


INPUT_SCHEMA: Final = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {
        "user_idx": {"type": "integer", "minimum": 0, "maximum": USERS - 1},
        "context": {"type": "array", "items": {"type": "number"}, "minItems": CONTEXT, "maxItems": CONTEXT},
    },
    "required": ["user_idx", "context"],
    "additionalProperties": False,
}
OUTPUT_SCHEMA: Final = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "array",
    "items": {"type": "integer", "minimum": 0, "maximum": ITEMS - 1},
    "minItems": TOP,
    "maxItems": TOP,
}


def request_id(number: int) -> str:
    return _REQUEST_ID.format(number)


def number_of(request_id: str) -> int:
    """The inverse of `request_id`; raises ValueError for what it never made."""
    return int(request_id.rpartition("-")[2], 16)


def user_id(number: int) -> str:
    return f"u{number}"


def features(number: int) -> tuple[int, list[float]]:
    """The input of a record: a user's index and his context; no two numbers below 10^9 share one."""
    digits = (number % 1000, number // 1000 % 1000, number // 1_000_000 % 1000)
    spread = (number * 7919 % 1000, number * 104_729 % 1000, number * 1_299_709 % 1000)
    return number * 31 % USERS, [0.001 * digit - 0.5 for digit in digits + spread]


def message(number: int, dialect: Dialect = Dialect.PREDICT, *, subject: int | None = None) -> Message:
    """Record `number`, about 200 bytes; with a `subject` it asks of that record's user and input again."""
    subject = number if subject is None else subject
    user_idx, context = features(subject)
    template = _REQUEST if dialect is Dialect.PREDICT else _OPEN_INFERENCE
    value = template.format(
        id=request_id(number),
        model=MODEL_NAME,
        user=user_id(subject),
        user_idx=user_idx,
        context=",".join(f"{feature:.3f}" for feature in context),
    )
    key = user_id(subject) if dialect is Dialect.PREDICT else request_id(number)
    return Message(number % PARTITIONS, key.encode(), value.encode())


def messages(numbers: Iterable[int], dialect: Dialect = Dialect.PREDICT) -> Iterator[Message]:
    return (message(number, dialect) for number in numbers)
