"""PURE. Finds the fields of a document that its model does not have.

Readers of topics ignore unknown fields, because a later release may add some. Whoever writes a file wants each field to
have an effect: a version never changes, so a misspelt one would be missing for ever.
"""

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from schemas.events import JsonObject
from schemas.near_names import suggestion


def unknown_fields(model: type[BaseModel], document: Any) -> list[str]:
    """A message for each field that the model, or a model in it, does not have: its path and the nearest field."""
    schema = model.model_json_schema()
    return list(_unknown(schema, schema.get("$defs", {}), document, ""))


def _unknown(schema: JsonObject, definitions: JsonObject, value: Any, path: str) -> Iterator[str]:
    if "$ref" in schema:
        schema = definitions[schema["$ref"].removeprefix("#/$defs/")]
    for alternative in schema.get("anyOf", ()):
        yield from _unknown(alternative, definitions, value, path)
    if not isinstance(value, dict):
        return
    known = schema.get("properties")
    others = schema.get("additionalProperties")
    for name, each in value.items():
        inner = f"{path}.{name}" if path else name
        if known is not None and name in known:
            yield from _unknown(known[name], definitions, each, inner)
        elif known is not None:
            near = suggestion(name, known) or f"; the fields are {', '.join(known)}"
            yield f"{inner} is not a field{near}"
        elif isinstance(others, dict):
            yield from _unknown(others, definitions, each, inner)
