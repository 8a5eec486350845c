"""PURE. The wire contract as documents: JSON Schema 2020-12 for each model, and AsyncAPI 3.0.

`docs/schemas/*.json` and `docs/asyncapi.json` are what these functions return, which a test holds. Topic names are the defaults: a deployment may set others.
"""

from dataclasses import dataclass, field
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, models_json_schema

from schemas.events import (
    Alert,
    JsonObject,
    MetricsDelta,
    Outcome,
    PredictRequest,
    PredictResponse,
    RouteHint,
    WireModel,
)
from schemas.models import PromotionEvent, PromotionResult

# The version of the contract, not of the program: a minor version adds fields; nothing is renamed or repurposed.
CONTRACT_VERSION = "1.0.0"
DIALECT = "https://json-schema.org/draft/2020-12/schema"
MODELS: tuple[type[WireModel], ...] = (
    PredictRequest,
    PredictResponse,
    Outcome,
    MetricsDelta,
    Alert,
    PromotionEvent,
    PromotionResult,
    RouteHint,
)

_CARRIED = {
    "traceparent": "W3C Trace Context of the request, if it has one.",
    "tracestate": "W3C Trace Context of the request, if it has one.",
    "kafka_correlationId": "The correlation id of the request, if it has one (Spring Kafka's ReplyingKafkaTemplate).",
}
_SOURCE = (
    "TOPIC/PARTITION/OFFSET of the request. It and `headrace-topic-id` together are equal for a response that was "
    "written twice, and for no other response."
)
_TOPIC_ID = (
    "The id of the request's topic, as Kafka's tools show it: a topic that is deleted and created again has another "
    "one. Absent with brokers before Kafka 3.1."
)
RESPONSE_HEADERS = {
    "headrace-source": _SOURCE,
    "headrace-topic-id": _TOPIC_ID,
    "headrace-input-digest": "Hexadecimal digest of the canonical input, if the input is valid.",
    "content-type": "application/json",
    "headrace-omitted": "`key` when the request's key is too large for the topic; `key, headers, details` when that is not enough.",
    **_CARRIED,
}
DEAD_LETTER_HEADERS = {
    "headrace-source": "TOPIC/PARTITION/OFFSET of the record.",
    "headrace-topic-id": "The id of the record's topic, as in a response.",
    "headrace-last-offset": "The last offset of a batch that could not be read; `headrace-source` has its first one.",
    "headrace-error-code": "The error code of the response; MALFORMED_RECORD, UNREADABLE_BATCH, ABANDONED_RECORD or SKIPPED_RECORD when there was no response.",
    "headrace-error-message": "The error in words.",
    "headrace-model-version": "The version, if the request was routed to one.",
    "headrace-attempts": "How often the record was begun; more than 1 when a process ended meanwhile.",
    "headrace-omitted": "`key, value, headers` when the record is too large for the topic or cannot be read; it stays in its own topic.",
    "__connect.errors.topic": "As Kafka Connect writes it.",
    "__connect.errors.partition": "As Kafka Connect writes it.",
    "__connect.errors.offset": "As Kafka Connect writes it.",
    "__connect.errors.exception.class.name": "As Kafka Connect writes it.",
    "__connect.errors.exception.message": "As Kafka Connect writes it.",
}


@dataclass(frozen=True, slots=True)
class Channel:
    """A topic in the published contract. Headrace receives from it, or sends; `reply` names another channel."""

    address: str
    receives: bool
    summary: str
    key: str
    model: type[WireModel] | None
    headers: dict[str, str] = field(default_factory=dict)
    correlated_by: str = ""
    reply: str = ""


# By the setting that names the topic.
CHANNELS = {
    "topic_requests": Channel(
        "predict-requests",
        receives=True,
        summary="Requests for predictions. As many partitions as predict-responses.",
        key="user_id; any key is accepted.",
        model=PredictRequest,
        correlated_by="request_id",
        reply="topic_responses",
    ),
    "topic_responses": Channel(
        "predict-responses",
        receives=False,
        summary="One response for each request, in the request's partition; at least once.",
        key="The request's key.",
        model=PredictResponse,
        headers=RESPONSE_HEADERS,
        correlated_by="request_id",
    ),
    "topic_dead_letters": Channel(
        "predict-dead-letters",
        receives=False,
        summary="Requests that could not be read or served: their bytes and headers, and the error.",
        key="The record's key.",
        model=None,
        headers=DEAD_LETTER_HEADERS,
    ),
    "topic_outcomes": Channel(
        "predict-outcomes",
        receives=True,
        summary="What users did after a prediction; an outcome_id counts once.",
        key="user_id",
        model=Outcome,
    ),
    "topic_metrics": Channel(
        "predict-metrics",
        receives=False,
        summary="The counts of each worker for each version, each second; mergeable.",
        key="model_name",
        model=MetricsDelta,
    ),
    "topic_alerts": Channel(
        "predict-alerts",
        receives=False,
        summary="Alerts that fire or resolve.",
        key="model_name",
        model=Alert,
    ),
    "topic_promotions": Channel(
        "model-promotions",
        receives=True,
        summary="Changes of a model that operators request; an event_id is applied once.",
        key="model_name",
        model=PromotionEvent,
        correlated_by="event_id",
        reply="topic_promotion_results",
    ),
    "topic_promotion_results": Channel(
        "model-promotion-results",
        receives=False,
        summary="The result of each promotion event.",
        key="model_name",
        model=PromotionResult,
        correlated_by="event_id",
    ),
}


def json_schemas() -> dict[str, JsonObject]:
    """JSON Schema 2020-12 of each wire model, by its name."""
    return {
        model.__name__: {"$schema": DIALECT, "$id": f"urn:headrace:{model.__name__}:{CONTRACT_VERSION}"}
        | model.model_json_schema(schema_generator=_WithoutTitles)
        for model in MODELS
    }


def asyncapi() -> JsonObject:
    """The AsyncAPI 3.0 document: channels, operations and messages on Kafka, with keys and headers."""
    _, definitions = models_json_schema(
        [(channel.model, "validation") for channel in CHANNELS.values() if channel.model],
        ref_template="#/components/schemas/{model}",
        schema_generator=_WithoutTitles,
    )
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Headrace",
            "version": CONTRACT_VERSION,
            "description": "Predictions over Kafka. All values are UTF-8 JSON objects; times are RFC 3339 UTC "
            "with milliseconds; readers ignore fields that they do not know. Topic names are settings.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {_id(channel): _channel(channel) for channel in CHANNELS.values()},
        "operations": {_operation_name(channel): _operation(channel) for channel in CHANNELS.values()},
        "components": {
            "messages": {_message_name(channel): _message(channel) for channel in CHANNELS.values()},
            "schemas": definitions["$defs"],
        },
    }


class _WithoutTitles(GenerateJsonSchema):
    """A generator without field titles, which would repeat the fields' names."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002  # the signature is pydantic's
        return False


def _id(channel: Channel) -> str:
    first, *rest = channel.address.split("-")
    return first + "".join(word.capitalize() for word in rest)


def _message_name(channel: Channel) -> str:
    return channel.model.__name__ if channel.model else "DeadLetter"


def _action(channel: Channel) -> str:
    return "receive" if channel.receives else "send"


def _operation_name(channel: Channel) -> str:
    return _action(channel) + _message_name(channel)


def _channel(channel: Channel) -> JsonObject:
    name = _message_name(channel)
    return {
        "address": channel.address,
        "summary": channel.summary,
        "messages": {name: {"$ref": f"#/components/messages/{name}"}},
    }


def _operation(channel: Channel) -> JsonObject:
    operation: JsonObject = {
        "action": _action(channel),
        "channel": {"$ref": f"#/channels/{_id(channel)}"},
        "summary": channel.summary,
        "messages": [_message_reference(channel)],
    }
    if channel.reply:
        answer = CHANNELS[channel.reply]
        operation["reply"] = {
            "channel": {"$ref": f"#/channels/{_id(answer)}"},
            "messages": [_message_reference(answer)],
        }
    return operation


def _message_reference(channel: Channel) -> JsonObject:
    return {"$ref": f"#/channels/{_id(channel)}/messages/{_message_name(channel)}"}


def _message(channel: Channel) -> JsonObject:
    message: JsonObject = {
        "name": _message_name(channel),
        "summary": channel.summary,
        "bindings": {
            "kafka": {"key": {"type": "string", "description": channel.key}, "bindingVersion": "0.5.0"}
        },
    }
    if channel.model:
        message["payload"] = {"$ref": f"#/components/schemas/{channel.model.__name__}"}
    else:
        message["contentType"] = "application/octet-stream"
        message["payload"] = {"description": "The record's original bytes, unchecked."}
    if channel.headers:
        message["headers"] = {
            "type": "object",
            "required": ["headrace-source"],
            "properties": {
                name: {"type": "string", "description": text} for name, text in channel.headers.items()
            },
        }
    if channel.correlated_by:
        message["correlationId"] = {"location": f"$message.payload#/{channel.correlated_by}"}
    return message
