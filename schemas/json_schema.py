"""JSON Schema 2020-12 as versions declare it: compiled once, and never fetched from another place."""

from collections.abc import Iterator
from itertools import islice
from typing import Any, Protocol

import jsonschema_rs

from schemas.events import ErrorDetail, JsonObject
from schemas.validation import json_pointer

MAX_DETAILS = 10
MAX_MESSAGE_CHARACTERS = 200


class Validator(Protocol):
    """A compiled schema. `is_valid` takes well under a microsecond for a small input."""

    def is_valid(self, instance: Any) -> bool: ...
    def iter_errors(self, instance: Any) -> Iterator[Any]: ...


def compile_schema(schema: JsonObject) -> Validator:
    """Compile a schema; a `$ref` must point into the schema itself.

    Raises ValueError, whose message is for the author of the schema.
    """
    try:
        validator: Validator = jsonschema_rs.Draft202012Validator(schema, retriever=_refuse)
    except ValueError as error:
        raise ValueError(str(error).split("\n", 1)[0]) from None
    return validator


def details(validator: Validator, value: Any) -> list[ErrorDetail]:
    """At most ten faults of a value, each with its JSON pointer (RFC 6901)."""
    return [_detail(error) for error in islice(validator.iter_errors(value), MAX_DETAILS)]


def type_errors(validator: Validator, value: Any) -> list[ErrorDetail]:
    """As `details`, but only values of a wrong type; sizes and contents do not count."""
    wrong = (error for error in validator.iter_errors(value) if error.schema_path[-1:] == ["type"])
    return [_detail(error) for error in islice(wrong, MAX_DETAILS)]


def _detail(error: Any) -> ErrorDetail:
    message = error.message
    if len(message) > MAX_MESSAGE_CHARACTERS:
        message = message[: MAX_MESSAGE_CHARACTERS - 1] + "…"
    return ErrorDetail(path=json_pointer(error.instance_path), message=message)


def _refuse(uri: str) -> None:
    raise ValueError(f"a schema must be whole: {uri} is not fetched")
