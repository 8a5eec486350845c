"""JSON Schema 2020-12 as versions declare it: compiled once, and never fetched from another place."""

import math
from collections.abc import Collection, Iterator
from itertools import islice
from typing import Any, Protocol

import jsonschema_rs

from schemas.events import ErrorDetail, JsonObject
from schemas.schema_limits import MAX_SLOW_CHARACTERS, is_slow, pattern_options, with_bounded_patterns
from schemas.validation import json_pointer

MAX_DETAILS = 10
MAX_COPIED_ITEMS = 100
MAX_COPIED_DEPTH = 10
MAX_COPIED_CHARACTERS = 1000
# What is left out of a text counts as one value for so many characters.
CHARACTERS_OF_A_VALUE = 10
# To look at a value costs so much less than to copy and explain it.
LOOKS_OF_A_VALUE = 10
MAX_COPIED_VALUES = 500
MAX_LEFT_OUT = 2000
# Some 20 ms of work.
MAX_EXPLAINED_VALUES = 10_000

# Steps of one match of a pattern that is not linear; some milliseconds.
MAX_BACKTRACKING = 100_000

# Some 100 ms of work.
MAX_SLOW_VALUES = 20_000
# Of the squares of lengths: a look-around is tried at each character. Some 20 ms of work.
MAX_SLOW_WORK = 2_500_000

TOO_MANY = (
    f"it has more than {MAX_SLOW_VALUES} values, for a schema that has multipleOf with a fraction, or arrays or objects "
    "in enum or const"
)
TOO_LONG_NAME = (
    f"a name in it has more than {MAX_SLOW_CHARACTERS} characters, for a schema with a pattern that is not matched in "
    "linear time; register a version without look-arounds and back-references"
)
TOO_MUCH_TEXT = (
    "it has too much text for a schema with a pattern that is not matched in linear time; register a version without "
    "look-arounds and back-references"
)
BEYOND = "the fault is not among the first values, which alone are explained"
OMITTED = "details are omitted: too much of this slice is invalid"

# Errors that a value has too when more belongs to it, and those that follow from its own keys or length.
_ALSO_OF_MORE = frozenset({"type", "maxItems", "maxProperties", "maxLength", "additionalProperties"})
_OF_OWN_KEYS = frozenset({"required", "minItems", "minProperties", "dependentRequired"})


class Validator(Protocol):
    """A compiled schema. `is_valid` takes well under a microsecond for a small input."""

    def is_valid(self, instance: Any) -> bool: ...
    def iter_errors(self, instance: Any) -> Iterator[Any]: ...
    def validate(self, instance: Any) -> None: ...


def compile_schema(schema: JsonObject) -> Validator:
    """Compile a schema; a `$ref` must point into the schema itself.

    No validation takes long: see `schema_limits.py`. A schema that is slow for each value takes `MAX_SLOW_VALUES`.
    `format` is checked, in linear time; one that JSON Schema does not have holds for every value. Patterns are matched in
    linear time. Those that cannot be, of versions that were registered before such patterns were refused, hold for
    strings and names up to a length, and for so much text of each value.

    Raises ValueError, whose message is for the author of the schema.
    """
    has_slow_patterns = False
    try:
        validator = _compile(schema, pattern_options(schema))
    except ValueError:
        has_slow_patterns = True
        slower = jsonschema_rs.FancyRegexOptions(backtrack_limit=MAX_BACKTRACKING)
        try:
            validator = _compile(with_bounded_patterns(schema), slower)
        except ValueError as error:
            raise ValueError(str(error).split("\n", 1)[0]) from None
    max_values = MAX_SLOW_VALUES if is_slow(schema) else math.inf
    if not has_slow_patterns and max_values == math.inf:
        return validator
    return BoundedWork(validator, max_values=max_values, has_slow_patterns=has_slow_patterns)


def _compile(
    schema: JsonObject, options: jsonschema_rs.RegexOptions | jsonschema_rs.FancyRegexOptions
) -> Validator:
    validator: Validator = jsonschema_rs.Draft202012Validator(
        schema, retriever=_refuse, pattern_options=options, validate_formats=True
    )
    return validator


class BoundedWork:
    """A validator that refuses values for which it would take long.

    They have more than `max_values` values in them, or more text than patterns that are not linear may read.
    """

    def __init__(self, validator: Validator, *, max_values: float, has_slow_patterns: bool) -> None:
        self._validator = validator
        self._max_values = max_values
        self._has_slow_patterns = has_slow_patterns
        self.iter_errors = validator.iter_errors
        self.validate = validator.validate

    def is_valid(self, instance: Any) -> bool:
        """False for an instance that is too large too."""
        return not self.refusal(instance) and self._validator.is_valid(instance)

    def refusal(self, instance: Any) -> str:
        """Why an instance is not validated; empty when it is."""
        values, work, counts_text = self._max_values, MAX_SLOW_WORK, self._has_slow_patterns
        waiting = [instance]
        while waiting:
            value = waiting.pop()
            if isinstance(value, list | dict):
                values -= len(value)
                if values < 0:
                    return TOO_MANY
                if isinstance(value, dict):
                    if counts_text:
                        waiting += value
                        if max(map(len, value), default=0) > MAX_SLOW_CHARACTERS:
                            return TOO_LONG_NAME
                    waiting += value.values()
                else:
                    waiting += value
            elif counts_text and isinstance(value, str) and len(value) <= MAX_SLOW_CHARACTERS:
                # Patterns do not read longer ones.
                work -= len(value) ** 2
                if work < 0:
                    return TOO_MUCH_TEXT
        return ""


class Explanations:
    """The details of invalid values, within a budget: those of one slice, or of one call's predictions.

    The library makes all errors of a value before it returns the first one, so 133,000 wrong numbers would hold the
    event loop for a second. What is explained is a copy with at most `MAX_COPIED_VALUES` values, and the copies of
    one budget have at most `MAX_EXPLAINED_VALUES`.
    """

    def __init__(self) -> None:
        self._values_left = MAX_EXPLAINED_VALUES

    def of(self, validator: Validator, value: Any) -> list[ErrorDetail] | None:
        """As `details`; None when the budget is used up."""
        if self._values_left <= 0:
            return None
        copy = CutCopy(value)
        self._values_left -= copy.count + copy.looked_through // LOOKS_OF_A_VALUE
        return _explain(validator, value, copy)


def details(validator: Validator, value: Any) -> list[ErrorDetail]:
    """At most ten faults of a value that `validator` refuses, each with its JSON pointer (RFC 6901).

    They are those of the first values in it; see `CutCopy`.
    """
    return _explain(validator, value, CutCopy(value))


def type_errors(validator: Validator, value: Any) -> list[ErrorDetail]:
    """As `details`, but only values of a wrong type; sizes and contents do not count."""
    errors = validator.iter_errors(CutCopy(value).value)
    wrong = (error for error in errors if error.schema_path[-1:] == ["type"])
    return [_detail(error) for error in islice(wrong, MAX_DETAILS)]


def _explain(validator: Validator, value: Any, copy: "CutCopy") -> list[ErrorDetail]:
    if isinstance(validator, BoundedWork) and (refusal := validator.refusal(value)):
        return [ErrorDetail(path="", message=refusal)]
    errors = (error for error in validator.iter_errors(copy.value) if copy.is_error_of_original(error))
    if found := [_detail(error) for error in islice(errors, MAX_DETAILS)]:
        return found
    if copy.leaves_out_little:
        try:
            validator.validate(value)
        except jsonschema_rs.ValidationError as error:
            return [_detail(error)]
    return [ErrorDetail(path="", message=BEYOND)]


class CutCopy:
    """The first values of a JSON value: `MAX_COPIED_ITEMS` of each list and object, `MAX_COPIED_DEPTH` levels.

    `count` is the number of values in it, and `looked_through` that of the values that were looked at to see what was
    left out.
    """

    def __init__(self, value: Any) -> None:
        self.count = self.looked_through = 0
        self._cut: set[tuple[str | int, ...]] = set()
        self._around_cut: set[tuple[str | int, ...]] = set()
        self._left_out = 0
        self.value = self._copy(value, ())

    @property
    def is_cut(self) -> bool:
        """Whether the original has more than the copy."""
        return bool(self._cut)

    @property
    def leaves_out_little(self) -> bool:
        """Whether an error of the whole value is cheap: it is one list too long, rather than megabytes."""
        return self._left_out <= MAX_LEFT_OUT

    def is_error_of_original(self, error: Any) -> bool:
        """Whether an error of the copy is one of the original too, and not of the cut."""
        keyword = error.schema_path[-1] if error.schema_path else ""
        place = tuple(error.instance_path)
        if keyword in _ALSO_OF_MORE or not (place in self._cut or place in self._around_cut):
            return True
        return place not in self._cut and keyword in _OF_OWN_KEYS

    def _copy(self, value: Any, place: tuple[str | int, ...]) -> Any:
        self.count += 1
        if isinstance(value, str) and len(value) > MAX_COPIED_CHARACTERS:
            self._cut_at(place, len(value) // CHARACTERS_OF_A_VALUE)
            return value[:MAX_COPIED_CHARACTERS]
        if isinstance(value, dict):
            return {key: self._copy(value[key], (*place, key)) for key in self._kept(value, place)}
        if isinstance(value, list):
            return [self._copy(item, (*place, index)) for index, item in enumerate(self._kept(value, place))]
        return value

    def _kept(self, values: Collection[Any], place: tuple[str | int, ...]) -> Iterator[Any]:
        kept = 0
        if len(place) < MAX_COPIED_DEPTH:
            for value in islice(values, MAX_COPIED_ITEMS):
                if self.count >= MAX_COPIED_VALUES:
                    break
                kept += 1
                yield value
        if kept < len(values):
            left_out = len(values) - kept
            if self._left_out + left_out <= MAX_LEFT_OUT:
                self.looked_through += len(values)
                if _has_large(values):
                    left_out += MAX_LEFT_OUT
            self._cut_at(place, left_out)

    def _cut_at(self, place: tuple[str | int, ...], left_out: int) -> None:
        self._left_out += left_out
        self._cut.add(place)
        self._around_cut.update(place[:length] for length in range(len(place)))


def _has_large(values: Collection[Any]) -> bool:
    """Whether something in a list or an object may itself be of any size."""
    items = values.values() if isinstance(values, dict) else values
    return any(
        isinstance(item, dict | list) or (isinstance(item, str) and len(item) > MAX_COPIED_ITEMS)
        for item in items
    )


def _detail(error: Any) -> ErrorDetail:
    return ErrorDetail(path=json_pointer(error.instance_path), message=error.message)


def _refuse(uri: str) -> None:
    raise ValueError(f"a schema must be whole: {uri} is not fetched")
