"""Checks of a version at its registration."""

from typing import Any

import pytest
from jsonschema_rs import Draft202012Validator
from pydantic import ValidationError

from registry.registration import FORMATS, check_version, warnings_on
from schemas.errors import PromotionRejectedError, RejectionCode
from schemas.events import JsonObject
from schemas.json_schema import compile_schema, details
from schemas.mapping import Datatype, Mapping, schema_of
from schemas.models import ModelSpec, cache_seconds
from tests.support.promotions.events import spec

MAPPING = {"inputs": {"user": {"tensor": "user_idx", "datatype": "INT64"}}, "outputs": {"items": "out_0"}}
ACCEPTS = {"type": "object", "required": ["user"], "properties": {"user": {"type": "integer", "maximum": 99}}}
BASE64: JsonObject = {"inputs": {"x": {"datatype": "BYTES", "is_base64": True}}}
TEXT: JsonObject = {"inputs": {"x": {"datatype": "BYTES", "content_type": "str"}}}


def version(**fields: Any) -> ModelSpec:
    return ModelSpec.model_validate(spec("v1", **fields))


def refusal(**fields: Any) -> str:
    with pytest.raises(PromotionRejectedError) as caught:
        check_version(version(**fields))
    assert caught.value.code is RejectionCode.INVALID_EVENT
    return caught.value.message


def test_a_version_whose_example_fits_is_taken() -> None:
    """With a mapping, and with predictions."""
    check_version(
        version(
            mapping=MAPPING,
            input_schema=ACCEPTS,
            output_schema={"type": "array"},
            example={"input": {"user": 17}, "predictions": [1, 2]},
        )
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"input_schema": ACCEPTS, "example": {"input": {"user": 100}}}, "example.input does not match"),
        (
            {"mapping": MAPPING, "example": {"input": {"user": 1.5}}},
            "example.input does not fit the mapping: /user:",
        ),
        (
            {"mapping": MAPPING, "example": {"input": {"users": 1}}},
            "example.input does not fit the mapping: it:",
        ),
        (
            {"output_schema": {"type": "array"}, "example": {"input": {}, "predictions": 3}},
            "example.predictions do not match",
        ),
        (
            {"mapping": {"inputs": {k: {"tensor": "t", "datatype": "BOOL"} for k in ("a", "b")}}},
            "mapping.inputs name one tensor twice",
        ),
        (
            {"mapping": {"inputs": {"a": {"datatype": "BOOL"}}, "outputs": {"x": "o", "y": "o"}}},
            "mapping.outputs name one tensor twice",
        ),
        (
            {
                "server": {"form": "value"},
                "mapping": {"inputs": {k: {"datatype": "BOOL"} for k in ("a", "b")}},
            },
            "server.form value sends one value alone",
        ),
    ],
)
def test_what_could_not_answer_is_refused(fields: dict[str, Any], message: str) -> None:
    """The message says where and why."""
    assert refusal(**fields).startswith(message)


@pytest.mark.parametrize(
    ("tensor", "good", "bad"),
    [
        ({"datatype": "INT8"}, [-128, 127, 1.0], [128, -129, "1", True, 0.5, [1]]),
        ({"datatype": "UINT16"}, [0, 65535], [-1, 65536]),
        ({"datatype": "INT64"}, [-(2**63), 2**63 - 1], [2**63]),
        ({"datatype": "FP32", "shape": [2]}, [[1, 2.5]], [[1], [1, 2, 3], 1, ["1", "2"]]),
        ({"datatype": "FP32", "null": "nan"}, [1.5, None], ["nan", [None]]),
        ({"datatype": "FP64", "shape": [2], "null": "nan"}, [[None, 1]], [None, [None]]),
        ({"datatype": "FP64", "shape": [-1, 2]}, [[], [[1, 2], [3, 4]]], [[[1]], [1, 2]]),
        ({"datatype": "BYTES", "shape": [1]}, [["a"]], ["a", [1]]),
        ({"datatype": "BOOL"}, [True], [1, "true"]),
    ],
)
def test_a_declared_tensor_says_what_fits(tensor: JsonObject, good: list[Any], bad: list[Any]) -> None:
    """Its type's range, and its shape without the batch dimension."""
    mapping = Mapping.model_validate({"inputs": {"x": tensor}})
    fits = compile_schema(schema_of(mapping))
    assert [value for value in good if not fits.is_valid({"x": value})] == []
    assert [value for value in bad if fits.is_valid({"x": value})] == []


@pytest.mark.parametrize(
    ("mapping", "told"),
    [
        ({"inputs": {"x": {"datatype": "INT8", "null": "nan"}}}, "INT8 has no NaN"),
        ({"inputs": {"x": {"datatype": "BYTES", "null": "nan"}}}, "BYTES has no NaN"),
        ({"inputs": {"x": {"datatype": "FP32", "is_base64": True}}}, "is_base64 needs the datatype BYTES"),
        ({"inputs": {"x": {"datatype": "BYTES", "content_type": "a b"}}}, "content_type"),
        ({"inputs": {}, "outputs": {}}, "the mapping names no tensor"),
    ],
)
def test_a_mapping_that_says_nothing_right_is_refused(mapping: JsonObject, told: str) -> None:
    """Before a version has it."""
    with pytest.raises(ValidationError, match=told):
        Mapping.model_validate(mapping)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"framework": "open-inference", "mapping": BASE64}, "is_base64 is for framework tensorflow"),
        (
            {"framework": "tensorflow", "server": {"content_type": "pd"}},
            "content_type is for framework open-inference",
        ),
        ({"framework": "tensorflow", "mapping": TEXT}, "content_type is for framework open-inference"),
        ({"framework": "tensorflow", "server": {"host": "a b"}}, "server.host"),
        ({"framework": "tensorflow", "server": {"host": "a.test/path"}}, "server.host"),
    ],
)
def test_what_a_server_has_no_form_for_is_refused(fields: dict[str, Any], told: str) -> None:
    """Before a version has it."""
    with pytest.raises(ValidationError, match=told):
        version(**fields)


def test_a_mapping_of_outputs_alone_says_nothing_of_inputs() -> None:
    """An example is held against the input schema only, and `value` needs no mapped input."""
    outputs = {"outputs": {"x": "y"}}
    check_version(version(mapping=outputs, server={"form": "value"}, example={"input": {"any": None}}))
    assert schema_of(Mapping.model_validate(outputs)) == {}


def test_every_datatype_has_a_schema() -> None:
    """Every type of the enumeration is covered."""
    for datatype in Datatype:
        compile_schema(schema_of(Mapping.model_validate({"inputs": {"x": {"datatype": datatype.value}}})))


@pytest.mark.parametrize("side", ["input_schema", "output_schema"])
def test_a_format_that_nothing_checks_is_refused(side: str) -> None:
    """It is misspelt, or of another vocabulary; a property of the name `format` is none."""
    schema = {"type": "object", "properties": {"at": {"type": "string", "format": "datetime"}}}
    message = refusal(**{side: schema})
    assert message.startswith(f"{side} has the format 'datetime', which JSON Schema 2020-12 does not have")
    assert "date-time" in message
    check_version(version(**{side: {"type": "object", "properties": {"format": {"type": "string"}}}}))


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_that_is_taken_is_checked(name: str) -> None:
    """Also by the library."""
    schema = {"type": "string", "format": name}
    check_version(version(input_schema=schema))
    Draft202012Validator(schema, validate_formats=True, ignore_unknown_formats=False)


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("date-time", "2026-11-29T15:50:58.128Z", "yesterday-ish"),
        ("email", "a@example.org", "no mail"),
        ("ipv4", "192.0.2.1", "999.1.1.1"),
        ("uuid", "9b0dd7de-04b5-4a5e-8d3c-93f0b2f0a8f5", "9b0dd7de"),
    ],
)
def test_a_format_is_checked(name: str, good: str, bad: str) -> None:
    """As the author of the schema expects; a version of an earlier release may have one that nothing checks."""
    validator = compile_schema({"type": "string", "format": name})
    assert validator.is_valid(good)
    assert not validator.is_valid(bad)
    assert name in details(validator, bad)[0].message
    assert compile_schema({"type": "string", "format": "datetime"}).is_valid(bad)


ADDRESS = "http://127.0.0.1:8501"


@pytest.mark.parametrize(
    ("fields", "seconds", "warns"),
    [
        ({"framework": "tensorflow", "endpoint": ADDRESS, "server": {"model": "m"}}, 0, True),
        ({"framework": "tensorflow", "endpoint": f"{ADDRESS}/v1/models/m"}, 0, True),
        ({"framework": "tensorflow", "endpoint": f"{ADDRESS}/v1/models/m/labels/stable"}, 0, True),
        ({"framework": "tensorflow", "endpoint": ADDRESS, "cache_ttl_seconds": 60}, 60, True),
        (
            {"framework": "tensorflow", "endpoint": ADDRESS, "server": {"model": "m", "version": "3"}},
            300,
            False,
        ),
        ({"framework": "tensorflow", "endpoint": f"{ADDRESS}/v1/models/m/versions/3"}, 300, False),
        ({"framework": "open-inference", "endpoint": ADDRESS}, 300, False),
        ({"framework": "open-inference", "endpoint": ADDRESS, "cache_ttl_seconds": 0}, 0, False),
    ],
)
def test_a_version_that_its_server_may_replace_is_not_cached(
    fields: dict[str, Any], seconds: int, warns: bool
) -> None:
    """Old predictions of the cache would stand beside new ones, under one name; whoever registers it is told."""
    spec = version(**fields)
    assert cache_seconds(spec) == seconds
    assert [("without a promotion" in each, "server.version" in each) for each in warnings_on(spec)] == [
        (True, True)
    ] * warns
