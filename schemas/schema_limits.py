"""PURE. What a JSON Schema may cost: limits at its registration, and for patterns that were registered before them.

A validation holds the interpreter, so it must be short for any value. Patterns are matched by an engine whose time is
linear in the length of the string. It has no look-arounds and no back-references: with those, 100 KB of text can take
minutes. A version that was registered with one keeps it, for strings and names of at most `MAX_SLOW_CHARACTERS`. A
version that was registered with a schema that is too large is not loaded.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

from jsonschema_rs import Draft202012Validator, RegexOptions

from schemas.events import JsonObject
from schemas.wire import canonical

MAX_SCHEMA_BYTES = 256 * 1024
# Of the schema with every reference replaced by its target.
MAX_SUBSCHEMAS = 100_000
MAX_LEVELS = 300
# Members that are arrays or objects are compared one by one.
MAX_COMPOSITE_MEMBERS = 16
# All patterns of a schema, as they are compiled; one may have 10 MiB.
_PATTERNS_BYTES = 32 * 1024 * 1024
_PATTERN_BYTES = 10 * 1024 * 1024
MAX_SLOW_CHARACTERS = 500

# Keywords with a schema, with a list of schemas, and with an object of schemas.
_SCHEMA = frozenset(
    {
        *("items", "contains", "additionalProperties", "propertyNames", "unevaluatedItems"),
        *("unevaluatedProperties", "not", "if", "then", "else", "contentSchema"),
    }
)
_SCHEMAS = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_NAMED_SCHEMAS = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})

_NOT_LINEAR = re.compile(r"\(\?<?[=!]|\\[1-9k]")


def check_limits(schema: JsonObject) -> None:
    """Raise ValueError for a schema that may be slow to validate; the message says how to write it."""
    check_size(schema)
    for pattern in slow_patterns(schema):
        raise ValueError(f"pattern {pattern!r} {_remedy(pattern)}")


def check_size(schema: JsonObject) -> None:
    """Raise ValueError for a schema that is too large to validate each value in little time."""
    size_bytes = len(canonical(schema))
    if size_bytes > MAX_SCHEMA_BYTES:
        raise ValueError(f"it has {size_bytes} bytes, and at most {MAX_SCHEMA_BYTES} are taken")
    if _expanded(schema) > MAX_SUBSCHEMAS:
        raise ValueError(
            f"with its references replaced it has more than {MAX_SUBSCHEMAS} schemas; refer to each schema fewer times"
        )
    for part in subschemas(schema):
        members = part.get("enum")
        if isinstance(members, list):
            composite = sum(isinstance(member, list | dict) for member in members)
            if composite > MAX_COMPOSITE_MEMBERS:
                raise ValueError(
                    f"an enum has {composite} arrays and objects, and at most {MAX_COMPOSITE_MEMBERS} are taken; "
                    "describe them by properties or items"
                )


def subschemas(schema: JsonObject) -> Iterator[JsonObject]:
    """The schema and all schemas within it, references not followed."""
    waiting = [schema]
    while waiting:
        part = waiting.pop()
        yield part
        waiting += [inner for _, _, inner in _inner(part)]


def pattern_options(schema: JsonObject) -> RegexOptions:
    """The linear engine, with a limit of the compiled size that fits the number of patterns."""
    count = sum(1 for _ in _patterns(schema))
    return RegexOptions(size_limit=min(_PATTERN_BYTES, _PATTERNS_BYTES // max(count, 1)))


def slow_patterns(schema: JsonObject) -> Iterator[str]:
    """The patterns that the linear engine does not take, in the schemas that a keyword contains."""
    options = pattern_options(schema)
    for pattern in dict.fromkeys(_patterns(schema)):
        if not _is_linear(pattern, options):
            yield pattern


def is_slow(schema: JsonObject) -> bool:
    """Whether a value takes microseconds rather than nanoseconds: decimal fractions, and arrays or objects to compare."""
    for part in subschemas(schema):
        divisor, members = part.get("multipleOf"), part.get("enum")
        if isinstance(divisor, float) and not divisor.is_integer():
            return True
        if isinstance(part.get("const"), list | dict) or (
            isinstance(members, list) and any(isinstance(member, list | dict) for member in members)
        ):
            return True
    return False


def with_bounded_patterns(schema: JsonObject) -> JsonObject:
    """The schema with its slow patterns for strings of at most `MAX_SLOW_CHARACTERS`; longer ones are invalid.

    Those in `patternProperties` stay as they are: `additionalProperties` counts on them.
    """
    slow = frozenset(slow_patterns(schema))

    def bounded(part: JsonObject) -> JsonObject:
        pattern = part.get("pattern")
        if pattern not in slow:
            return part
        longest = {"maxLength": MAX_SLOW_CHARACTERS}
        guard = {"if": longest, "then": {"pattern": pattern}, "else": longest}
        rest = {key: value for key, value in part.items() if key != "pattern"}
        # At the end: a reference to another member keeps its place.
        return {**rest, "allOf": [*part.get("allOf", ()), guard]}

    return _mapped(schema, bounded) if slow else schema


def _remedy(pattern: str) -> str:
    if _NOT_LINEAR.search(pattern):
        return (
            "has a look-around or a back-reference, with which a long string may hold a worker for minutes; write one "
            'pattern for each condition: {"allOf": [{"pattern": "[0-9]"}, {"pattern": "[A-Z]"}]} for '
            '"(?=.*[0-9])(?=.*[A-Z])", and {"not": {"pattern": "x"}} for "(?!.*x)"'
        )
    return (
        "is too large when it is compiled, or is not matched in linear time; write maxLength and minLength instead of "
        "repetitions such as {1,1000}"
    )


def _is_linear(pattern: str, options: RegexOptions) -> bool:
    try:
        Draft202012Validator({"pattern": pattern}, pattern_options=options)
    except ValueError:
        return False
    return True


def _patterns(schema: JsonObject) -> Iterator[str]:
    for part in subschemas(schema):
        if isinstance(part.get("pattern"), str):
            yield part["pattern"]
        if isinstance(part.get("patternProperties"), dict):
            yield from part["patternProperties"]


def _inner(schema: JsonObject) -> Iterator[tuple[str, str | int | None, JsonObject]]:
    """Each schema in a keyword, with the keyword and its key or index there. `true` and `false` are left out."""
    for keyword, value in schema.items():
        if keyword in _SCHEMA and isinstance(value, dict):
            yield keyword, None, value
        elif keyword in _SCHEMAS and isinstance(value, list):
            yield from ((keyword, index, item) for index, item in enumerate(value) if isinstance(item, dict))
        elif keyword in _NAMED_SCHEMAS and isinstance(value, dict):
            yield from ((keyword, name, item) for name, item in value.items() if isinstance(item, dict))


def _mapped(schema: JsonObject, function: Callable[[JsonObject], JsonObject]) -> JsonObject:
    """A copy, with `function` applied to each schema in it."""
    copy: dict[str, Any] = dict(schema)
    for keyword, place, inner in _inner(schema):
        if place is None:
            copy[keyword] = _mapped(inner, function)
            continue
        if copy[keyword] is schema[keyword]:
            copy[keyword] = schema[keyword].copy()
        copy[keyword][place] = _mapped(inner, function)
    return function(copy)


def _expanded(schema: JsonObject) -> int:
    """The number of schemas with each reference replaced by its target; a recursive reference counts once.

    Raises ValueError when the schemas are nested deeper than `MAX_LEVELS` then.
    """
    named = {f"#{part['$anchor']}": part for part in subschemas(schema) if "$anchor" in part}
    named |= {str(part["$id"]): part for part in subschemas(schema) if "$id" in part}
    counts: dict[str, int] = {}

    def count(part: JsonObject, level: int) -> int:
        if level > MAX_LEVELS:
            raise ValueError(f"with its references replaced it has more than {MAX_LEVELS} levels")
        total = 1
        for keyword, _, inner in _inner(part):
            # A definition counts where it is referred to.
            if keyword not in {"$defs", "definitions"}:
                total += count(inner, level + 1)
        reference = part.get("$ref")
        if isinstance(reference, str):
            if reference not in counts:
                counts[reference] = 1
                target = named.get(reference) or _target(schema, reference)
                counts[reference] = 1 if target is None else count(target, level + 1)
            total += counts[reference]
        return total

    return count(schema, 0)


def _target(schema: JsonObject, reference: str) -> JsonObject | None:
    """What a JSON pointer into the schema refers to; None for other references."""
    if reference == "#":
        return schema
    part: Any = schema if reference.startswith("#/") else None
    for step in reference[2:].split("/"):
        key = step.replace("~1", "/").replace("~0", "~")
        if isinstance(part, list):
            part = part[int(key)] if key.isdigit() and int(key) < len(part) else None
        else:
            part = part.get(key) if isinstance(part, dict) else None
    return part if isinstance(part, dict) else None
