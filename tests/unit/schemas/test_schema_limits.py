"""schemas/schema_limits.py: no schema that is taken makes a validation long, and older ones are served."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema_rs import Draft202012Validator, RegexOptions

from schemas.events import JsonObject
from schemas.json_schema import (
    MAX_SLOW_VALUES,
    TOO_LONG_NAME,
    TOO_MANY,
    TOO_MUCH_TEXT,
    compile_schema,
    details,
)
from schemas.schema_limits import (
    MAX_COMPOSITE_MEMBERS,
    MAX_SCHEMA_BYTES,
    MAX_SLOW_CHARACTERS,
    check_limits,
    with_bounded_patterns,
)

DIGIT_AND_CAPITAL = r"(?=.*\d)(?=.*[A-Z])"
# Long enough for minutes with an engine that backtracks.
LONG = "a" * 1_000_000
LEVELS = 40


def bomb(reference: str, **names: str) -> JsonObject:
    """Each of 40 definitions refers to the next one twice: 2 ** 40 schemas."""
    definitions: dict[str, Any] = {
        f"l{level}": {"allOf": [{"$ref": f"{reference}l{level + 1}"}] * 2} for level in range(LEVELS)
    }
    definitions[f"l{LEVELS}"] = {"type": "object"}
    for keyword, prefix in names.items():
        definitions = {name: part | {keyword: prefix + name} for name, part in definitions.items()}
    return {"$defs": definitions, "$ref": f"{reference}l0"}


CHAIN = {f"l{level}": {"$ref": f"#/$defs/l{level + 1}"} for level in range(2000)}


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"pattern": DIGIT_AND_CAPITAL}, r"look-around or a back-reference, .*allOf"),
        ({"items": {"pattern": r"^(?!.*x)"}}, "look-around"),
        ({"pattern": r"(a|b)\1"}, "back-reference"),
        ({"anyOf": [{"properties": {"a": {"not": {"pattern": "(?<=a)b"}}}}]}, "look-around"),
        ({"patternProperties": {"(?=a)": {}}}, "look-around"),
        ({"$defs": {"a": {"pattern": "(?=a)"}}}, "look-around"),
        ({"pattern": r"^\p{L}{1,9000}$"}, "too large when it is compiled, .* write maxLength"),
        ({"allOf": [{"pattern": rf"^\p{{L}}{{1,99}}{number}$"} for number in range(99)]}, "too large"),
        ({"enum": ["a" * MAX_SCHEMA_BYTES]}, f"at most {MAX_SCHEMA_BYTES}"),
        ({"enum": [[number] for number in range(MAX_COMPOSITE_MEMBERS + 1)]}, "17 arrays and objects"),
        (bomb("#/$defs/"), "refer to each schema fewer times"),
        (bomb("#", **{"$anchor": ""}), "refer to each schema fewer times"),
        (bomb("urn:", **{"$id": "urn:"}), "refer to each schema fewer times"),
        ({"$defs": CHAIN, "$ref": "#/$defs/l0"}, "more than 300 levels"),
    ],
    ids=str,
)
def test_a_schema_that_may_be_slow_is_refused(schema: JsonObject, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_limits(schema)


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"properties": {"pattern": {"type": "string"}, "enum": True}},
        {"const": {"pattern": "(?=a)"}, "default": {"pattern": "(?=a)"}, "examples": [{"pattern": "(?=a)"}]},
        {"pattern": r"^[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9.-]{1,255}\.[A-Za-z]{2,63}$"},
        {"pattern": r"^\p{L}{1,100}$"},
        {"pattern": "^(a+)+$"},
        {"properties": {f"a{number}": {"pattern": f"^[A-Z]{{1,35}}{number}$"} for number in range(300)}},
        {"properties": {"next": {"$ref": "#"}, "list": {"items": {"$ref": "#/properties/next"}}}},
        {"allOf": [{"$ref": "#/allOf/1/prefixItems/0"}, {"prefixItems": [{"type": "integer"}]}]},
        {"$ref": "https://json-schema.org/draft/2020-12/schema"},
        {"enum": [f"code {number}" for number in range(10_000)]},
    ],
    ids=lambda schema: str(schema)[:60],
)
def test_others_are_taken(schema: JsonObject) -> None:
    check_limits(schema)


@given(
    pattern=st.sampled_from([r"^\d{3}-\w+\s", r"[^a-c]$", r"^$", r"\bx", r"(a|ab)(c|bcd)", r"é|\u0041", "."]),
    text=st.text(alphabet="abcdxA é\n 0123456789-", max_size=12),
)
def test_both_engines_agree(pattern: str, text: str) -> None:
    """A version that was registered before has the same valid inputs."""
    before = Draft202012Validator({"pattern": pattern})
    assert compile_schema({"pattern": pattern}).is_valid(text) == before.is_valid(text)
    Draft202012Validator({"pattern": pattern}, pattern_options=RegexOptions())


@pytest.mark.parametrize(
    "schema",
    [
        {"pattern": DIGIT_AND_CAPITAL},
        {"pattern": DIGIT_AND_CAPITAL, "allOf": [{"minLength": 1}], "type": ["string", "null"]},
        {"anyOf": [{"$ref": "#/$defs/a"}, {"type": "null"}], "$defs": {"a": {"pattern": DIGIT_AND_CAPITAL}}},
    ],
    ids=str,
)
@given(value=st.none() | st.text(alphabet="aB1", max_size=6) | st.just("aB1" * (MAX_SLOW_CHARACTERS // 3)))
def test_an_older_version_keeps_its_patterns(schema: JsonObject, value: Any) -> None:
    """For strings up to a length."""
    assert compile_schema(schema).is_valid(value) == Draft202012Validator(schema).is_valid(value)


def test_an_older_version_refuses_longer_strings() -> None:
    """At once."""
    schema = {"properties": {"code": {"pattern": DIGIT_AND_CAPITAL}, "text": {"type": "string"}}}
    validator = compile_schema(schema)
    assert validator.is_valid({"code": "aB1", "text": LONG})
    assert not validator.is_valid({"code": LONG + "B1"})
    (detail,) = details(validator, {"code": "a" * MAX_SLOW_CHARACTERS + "B1"})
    assert detail.path == "/code"
    assert with_bounded_patterns({"pattern": "a"}) == {"pattern": "a"}


SLOW_NAMES: JsonObject = {
    "patternProperties": {DIGIT_AND_CAPITAL: {"type": "number"}},
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("schema", "value", "message"),
    [
        pytest.param(SLOW_NAMES, {"a" * 501: 1}, TOO_LONG_NAME, id="a long name"),
        pytest.param(
            SLOW_NAMES, {f"aB1{number:0497}": 1 for number in range(11)}, TOO_MUCH_TEXT, id="many names"
        ),
        pytest.param(
            {"items": {"anyOf": [{"pattern": DIGIT_AND_CAPITAL}, {"type": "string"}]}},
            ["a" * 500] * 11,
            TOO_MUCH_TEXT,
            id="many strings",
        ),
    ],
)
def test_an_older_version_refuses_much_text(schema: JsonObject, value: Any, message: str) -> None:
    """It would be searched for seconds, while the interpreter is held."""
    validator = compile_schema(schema)
    assert not validator.is_valid(value)
    (detail,) = details(validator, value)
    assert (detail.path, detail.message) == ("", message)


@given(
    value=st.dictionaries(
        st.text(alphabet="aB1", max_size=6) | st.just("aB1" * (MAX_SLOW_CHARACTERS // 3)),
        st.integers() | st.text(max_size=1),
        max_size=5,
    )
)
def test_an_older_version_keeps_its_patterns_of_names(value: JsonObject) -> None:
    """And what `additionalProperties` says of the other names."""
    assert compile_schema(SLOW_NAMES).is_valid(value) == Draft202012Validator(SLOW_NAMES).is_valid(value)


def test_an_ordinary_pattern_takes_long_strings() -> None:
    assert compile_schema({"pattern": "^(a+)+$"}).is_valid(LONG)
    assert not compile_schema({"pattern": "^(a+)+$"}).is_valid(LONG + "b")


@pytest.mark.parametrize(
    "slow",
    [{"multipleOf": 0.01}, {"enum": [[1], {"a": 1}, 1.5, None]}, {"not": {"const": {"a": 1}}}],
    ids=str,
)
def test_a_schema_that_is_slow_for_each_value_takes_few(slow: JsonObject) -> None:
    validator = compile_schema({"additionalProperties": {"items": slow}})
    assert validator.is_valid({"x": [1.5] * (MAX_SLOW_VALUES - 1)})
    too_many = {"x": [1.5] * MAX_SLOW_VALUES}
    assert not validator.is_valid(too_many)
    (detail,) = details(validator, too_many)
    assert (detail.path, detail.message) == ("", TOO_MANY)
    (detail,) = details(validator, {"x": [1.5, 0.001]} if "multipleOf" in slow else {"x": [{"a": 1}, [2]]})
    assert detail.path.startswith("/x/")


def test_multiples_of_whole_numbers_are_quick() -> None:
    assert compile_schema({"items": {"multipleOf": 7}}).is_valid([7] * (MAX_SLOW_VALUES + 1))
