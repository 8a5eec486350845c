"""schemas/publish.py: the committed documents are the generated ones, and agree with the models."""

from pathlib import Path
from typing import Any

import jsonschema_rs
import orjson
import pytest
from pydantic import ValidationError

from schemas.errors import MalformedRecordError
from schemas.events import ErrorCode, PredictRequest, PredictResponse
from schemas.publish import (
    CHANNELS,
    DEAD_LETTER_HEADERS,
    MODELS,
    RESPONSE_HEADERS,
    asyncapi,
    json_schemas,
)
from streams.config.settings import Settings

DOCS = Path(__file__).parents[3] / "docs"
REQUEST: dict[str, Any] = {"request_id": "r", "model_name": "m", "user_id": "u", "input": {}}
RESPONSE: dict[str, Any] = {
    "request_id": "r",
    "model_name": "m",
    "model_version": "v1",
    "user_id": "u",
    "latency_ms": 0.5,
    "cached": False,
    "revision": 1,
    "stale": False,
}


def test_the_committed_documents_are_the_generated_ones() -> None:
    """After a change of a model, `make docs` writes them anew."""
    committed = {path.name: orjson.loads(path.read_bytes()) for path in (DOCS / "schemas").glob("*.json")}
    assert committed == {f"{name}.json": schema for name, schema in json_schemas().items()}
    assert orjson.loads((DOCS / "asyncapi.json").read_bytes()) == asyncapi()


def test_every_schema_is_valid_json_schema() -> None:
    """Each document compiles by its own dialect, and is named for its model."""
    schemas = json_schemas()
    assert set(schemas) == {model.__name__ for model in MODELS}
    for schema in schemas.values():
        jsonschema_rs.meta.validate(schema)
        jsonschema_rs.validator_for(schema)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"deadline_ms": 1},
        {"deadline_ms": 0},
        {"deadline_ms": 600_001},
        {"request_id": ""},
        {"request_id": "x" * 129},
        {"request_id": "a\nb"},
        {"model_name": "Upper"},
        {"user_id": ""},
        {"input": []},
        {"unknown": 1},
    ],
)
def test_the_schema_and_the_model_agree_on_requests(change: dict[str, Any]) -> None:
    """The worker accepts what the published schema accepts, and nothing else."""
    request = REQUEST | change
    try:
        PredictRequest.model_validate(request)
        taken = True
    except ValidationError:
        taken = False
    assert jsonschema_rs.is_valid(json_schemas()["PredictRequest"], request) == taken


@pytest.mark.parametrize(
    ("change", "valid"),
    [
        ({"predictions": [1]}, True),
        ({"predictions": None}, True),
        ({"error": {"code": "INTERNAL", "message": ""}}, True),
        ({}, False),
        ({"predictions": [1], "error": {"code": "INTERNAL", "message": ""}}, False),
    ],
)
def test_a_response_has_either_predictions_or_an_error(change: dict[str, Any], valid: bool) -> None:
    """The schema states it too, for readers without the model."""
    assert jsonschema_rs.is_valid(json_schemas()["PredictResponse"], RESPONSE | change) is valid


def test_channels_are_the_topics_of_the_settings() -> None:
    """Each topic setting has its channel, by its default name."""
    defaults = {
        name: field.default for name, field in Settings.model_fields.items() if name.startswith("topic_")
    }
    assert {name: channel.address for name, channel in CHANNELS.items()} == defaults


def test_every_reference_in_the_asyncapi_document_resolves() -> None:
    """No dangling $ref, and operations name messages of their own channel."""
    document = asyncapi()

    def references(node: Any) -> list[str]:
        if isinstance(node, dict):
            own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
            return own + [found for value in node.values() for found in references(value)]
        return [found for value in node for found in references(value)] if isinstance(node, list) else []

    found = references(document)
    assert len(found) > 30
    for reference in found:
        node: Any = document
        for step in reference.removeprefix("#/").split("/"):
            node = node[step]
        assert isinstance(node, dict)
    for operation in document["operations"].values():
        for message in operation["messages"]:
            assert message["$ref"].startswith(operation["channel"]["$ref"] + "/messages/")


def test_asyncapi_payloads_are_also_draft_7() -> None:
    """AsyncAPI 3 reads inline schemas as a superset of JSON Schema draft 7: nothing newer may be in them."""
    schemas = asyncapi()["components"]["schemas"]
    newer = {"$defs", "prefixItems", "unevaluatedProperties", "dependentRequired", "$dynamicRef"}

    def keywords(node: Any) -> set[str]:
        if isinstance(node, dict):
            return set(node) | {word for value in node.values() for word in keywords(value)}
        return {word for value in node for word in keywords(value)} if isinstance(node, list) else set()

    assert not keywords(schemas) & newer
    for schema in schemas.values():
        jsonschema_rs.meta.validate({"$schema": "http://json-schema.org/draft-07/schema#"} | schema)


def test_the_response_model_reads_its_own_error_codes() -> None:
    """The published codes are those of the model; MALFORMED_RECORD of dead letters is not one of them."""
    published = json_schemas()["PredictResponse"]["$defs"]["ErrorCode"]["enum"]
    assert published == [code.value for code in ErrorCode]
    assert MalformedRecordError.code not in published
    for code in published:
        PredictResponse.model_validate(RESPONSE | {"error": {"code": code, "message": ""}})


def test_headers_are_those_of_the_contract() -> None:
    """Other tools read these header names."""
    assert set(RESPONSE_HEADERS) == {
        "headrace-source",
        "headrace-topic-id",
        "headrace-input-digest",
        "headrace-omitted",
        "content-type",
        "traceparent",
        "tracestate",
        "kafka_correlationId",
    }
    connect = {name for name in DEAD_LETTER_HEADERS if name.startswith("__connect.errors.")}
    assert len(connect) == 5
    assert {name for name in DEAD_LETTER_HEADERS if name.startswith("headrace-")} == {
        "headrace-source",
        "headrace-topic-id",
        "headrace-last-offset",
        "headrace-error-code",
        "headrace-error-message",
        "headrace-model-version",
        "headrace-attempts",
        "headrace-omitted",
    }
