"""PURE. Make a sample value from a simple JSON Schema.

Reads types, properties, items, sizes, bounds, `const`, `enum`, `examples` and `default`, and ignores other
keywords. A sample is returned only if the schema accepts it.
"""

from typing import Any

from schemas.events import JsonObject
from schemas.json_schema import compile_schema

MAX_ELEMENTS = 100_000
_PLAIN: dict[str, Any] = {"boolean": False, "null": None}


class _NotSimpleError(Exception):
    pass


def sample_of(schema: JsonObject) -> Any:
    """A value that the schema accepts, objects with all their properties; None when the schema is not simple.

    Raises ValueError when `schema` is not a JSON Schema.
    """
    validator = compile_schema(schema)
    try:
        sample = _value(schema, MAX_ELEMENTS)
    except _NotSimpleError:
        return None
    return sample if validator.is_valid(sample) else None


def _value(schema: Any, most: int) -> Any:
    """A value with at most `most` elements."""
    if not isinstance(schema, dict):
        raise _NotSimpleError
    for keyword in ("const", "default"):
        if keyword in schema:
            return schema[keyword]
    for keyword in ("examples", "enum"):
        if schema.get(keyword):
            return schema[keyword][0]
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((each for each in kind if each != "null"), "null")
    if kind == "object" or (kind is None and "properties" in schema):
        properties = schema.get("properties", {})
        return {key: _value(each, most // len(properties)) for key, each in properties.items()}
    if kind == "array":
        return _array(schema, most)
    if kind == "string":
        return "a" * max(1, _size(schema.get("minLength", 0), most))
    if kind in ("integer", "number"):
        return _number(schema, whole=kind == "integer")
    if kind in _PLAIN:
        return _PLAIN[kind]
    raise _NotSimpleError


def _array(schema: JsonObject, most: int) -> list[Any]:
    # An empty list would test little of the model.
    size = _size(max(1, schema.get("minItems", 0)), most)
    size = min(size, int(schema.get("maxItems", size)))
    return [_value(schema.get("items"), most // size)] * size if size else []


def _number(schema: JsonObject, *, whole: bool) -> float:
    """The number within the bounds that is closest to zero."""
    number: float = 0
    step = 1 if whole else 0.5
    if "minimum" in schema:
        number = max(number, schema["minimum"])
    if schema.get("exclusiveMinimum", -1) >= number:
        number = schema["exclusiveMinimum"] + step
    if "maximum" in schema:
        number = min(number, schema["maximum"])
    if schema.get("exclusiveMaximum", number + 1) <= number:
        number = schema["exclusiveMaximum"] - step
    return number


def _size(size: float, most: int) -> int:
    if size > most:
        raise _NotSimpleError
    return int(size)
