"""Wire models of the topics, as published in `docs/schemas/` and `docs/asyncapi.json`.

Readers ignore unknown fields. A field may be added, but never renamed or repurposed.
Times are RFC 3339 UTC with milliseconds; durations carry their unit in the name.
"""

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from schemas.bounds import (
    MAX_HISTOGRAM_BUCKETS,
    BucketNumber,
    Count,
    Finite,
    Identifier,
    Label,
    Message,
    NonNegative,
    ShortMessage,
    UtcTime,
)

JsonObject = dict[str, Any]

RequestId = Annotated[
    str,
    StringConstraints(min_length=1, max_length=128, pattern=r"^[^\u0000-\u001f\u007f-\u009f]*$"),
]
ModelName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
VersionName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$")]
UserId = Annotated[str, StringConstraints(min_length=1, max_length=256)]
# As their names, or empty: a request may have no model that is registered, and no version.
_AnyModel = Annotated[str, StringConstraints(pattern=r"^([a-z0-9][a-z0-9._-]{0,62})?$")]
_AnyVersion = Annotated[str, StringConstraints(pattern=r"^([A-Za-z0-9][A-Za-z0-9._+-]{0,63})?$")]


class WireModel(BaseModel):
    """Strict about types, ignores unknown fields, immutable."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, protected_namespaces=())


class PredictRequest(WireModel):
    """A request for one prediction; topic `predict-requests`, key `user_id`."""

    request_id: RequestId = Field(
        description="Your name for the request; the response repeats it. No control characters."
    )
    model_name: ModelName = Field(
        description="A registered model: lower-case letters, digits, and `._-` behind the first character; up to 63."
    )
    user_id: UserId = Field(description="Text that names the user; it decides which version answers.")
    input: JsonObject = Field(
        description="Validated by the input_schema of the user's version; the model receives nothing else."
    )
    deadline_ms: Annotated[int, Field(ge=1, le=600_000)] | None = Field(
        default=None,
        description="Time until the request expires, from the record's Kafka timestamp, or from when it is read "
        "where it has none; absent = never.",
    )


class ErrorCode(StrEnum):
    """Why a request has no predictions."""

    INVALID_REQUEST = "INVALID_REQUEST"
    INVALID_INPUT = "INVALID_INPUT"
    UNKNOWN_MODEL = "UNKNOWN_MODEL"
    NO_ACTIVE_VERSION = "NO_ACTIVE_VERSION"
    STALE_ROUTE = "STALE_ROUTE"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    OVERLOADED = "OVERLOADED"
    BACKEND_UNAVAILABLE = "BACKEND_UNAVAILABLE"
    BACKEND_ERROR = "BACKEND_ERROR"
    INVALID_OUTPUT = "INVALID_OUTPUT"
    INTERNAL = "INTERNAL"


_INVALID = frozenset({ErrorCode.INVALID_REQUEST, ErrorCode.INVALID_INPUT})


def caller_codes(model_version: str) -> frozenset[ErrorCode]:
    """The codes of a version's requests that failed for what their sender sent.

    A deadline that has passed when a worker reads the request is the sender's, and such a request reaches no version
    (`model_version` ""). A deadline that passes later is missed by the version.
    """
    return _INVALID if model_version else _INVALID | {ErrorCode.DEADLINE_EXCEEDED}


CountedCode = Annotated[str, StringConstraints(pattern=f"^({'|'.join([*ErrorCode, 'MALFORMED_RECORD'])})$")]
"""An error code, or that of a record without a response."""


class ErrorDetail(WireModel):
    """One wrong value: `path` is its JSON pointer (RFC 6901)."""

    path: ShortMessage
    message: ShortMessage


class PredictError(WireModel):
    """The error of a response without predictions."""

    code: Annotated[ErrorCode, Field(strict=False)] = Field(
        description="The kind of the fault, for programs."
    )
    message: Message = Field(description="The fault in words.")
    details: Annotated[list[ErrorDetail], Field(max_length=10)] = Field(
        default=[],
        description="Wrong values of the input, the request or the predictions: `path` and `message`.",
    )


class PredictResponse(WireModel):
    """The response to one request; topic `predict-responses`, same key and partition number.

    Exactly one of `predictions` and `error` is present.
    """

    model_config = ConfigDict(
        json_schema_extra={"oneOf": [{"required": ["predictions"]}, {"required": ["error"]}]}
    )

    request_id: RequestId = Field(description="As in the request.")
    model_name: _AnyModel = Field(
        description='As in the request; "" when the request has none that can be read.'
    )
    model_version: _AnyVersion = Field(description='"" when the request was not routed to a version.')
    user_id: Annotated[str, Field(max_length=256)] = Field(
        description='As in the request; "" when the request has none that can be read.'
    )
    predictions: Any = Field(
        default=None,
        description="What the model predicts, as its version's output_schema says; absent with `error`.",
    )
    error: PredictError | None = Field(
        default=None, description="Why there are no predictions; absent with `predictions`."
    )
    latency_ms: NonNegative = Field(description="From the record's arrival in the worker to its response.")
    cached: bool = Field(description="The predictions were in the cache; the model did not run.")
    revision: Count = Field(
        description="The revision of the model's route that was used; 0 for an unknown model."
    )
    stale: bool = Field(
        description="The worker could not read the registry for longer than STALE_AFTER_SECONDS (5)."
    )
    fallback: bool = Field(
        default=False,
        description="The user's version failed, and production answered; `model_version` is that of production.",
    )


class Histogram(WireModel):
    """Base-2 exponential histogram of non-negative values.

    Bucket `i` at `scale` s counts values in (2^(i/2^s), 2^((i+1)/2^s)]; histograms of one scale
    merge by adding integers. Zeros count in `zero_count`.
    """

    scale: Annotated[int, Field(ge=-10, le=20)]
    count: Count
    sum: NonNegative
    min: NonNegative
    max: NonNegative
    zero_count: Count = 0
    buckets: Annotated[dict[BucketNumber, Count], Field(max_length=MAX_HISTOGRAM_BUCKETS)]


class MetricsDelta(WireModel):
    """The counts of one worker for one version in one window; topic `predict-metrics`.

    Readers drop duplicates by (worker, boot_id, seq); a gap in `seq` shows loss. Both times are within a day of the
    record's Kafka timestamp.
    """

    worker: Identifier
    boot_id: Identifier
    seq: Count
    window_start: UtcTime
    window_end: UtcTime
    model_name: _AnyModel
    model_version: _AnyVersion = Field(description='"" for requests that were not routed to a version.')
    revision: Count = Field(
        description="The revision of the route by which the worker serves the model; 0 without one."
    )
    requests: Count
    ok: Count
    errors: dict[CountedCode, Count]
    cache_hits: Count
    cache_misses: Count
    latency_ms: Histogram
    end_to_end_ms: Histogram
    backend_ms: Histogram
    batch_size: Histogram
    load_failures: Count = Field(
        default=0, description="How often loading this version failed; its model kept the older route."
    )
    fallbacks: dict[CountedCode, Count] = Field(
        default={},
        description="Requests of this version that production answered instead, by the error code of this version. "
        "They count in `requests` of production, not here.",
    )
    breaker_opened: Count = Field(
        default=0,
        description="How often the circuit breaker opened, and the worker stopped calling the model server.",
    )
    input_faults: Count = Field(
        default=0,
        description="Requests of this version that failed for their input: the backend predicted others. They count "
        "in `errors` or `fallbacks` too.",
    )


class Outcome(WireModel):
    """What a user did after a prediction; topic `predict-outcomes`, key `user_id`. An `outcome_id` counts once."""

    outcome_id: Identifier
    model_name: ModelName
    user_id: UserId
    request_id: RequestId | None = None
    name: Identifier
    value: Finite
    occurred_at: UtcTime


MAX_ALERT_WORKERS = 4


class Alert(WireModel):
    """A rule that began or ceased to hold; topic `predict-alerts`, key `model_name`."""

    alert_id: Identifier
    scope: Literal["model", "global"] = "model"
    model_name: _AnyModel
    model_version: _AnyVersion
    rule: Identifier
    severity: Label
    state: Literal["firing", "resolved"]
    value: Finite
    threshold: Finite
    baseline: Finite | None = None
    window_seconds: Finite
    codes: Annotated[dict[CountedCode, Count], Field(max_length=2)] = Field(
        default={},
        description="The commonest error codes of the requests that the rule counts, with their numbers.",
    )
    workers: Annotated[list[Identifier], Field(max_length=MAX_ALERT_WORKERS)] = Field(
        default=[],
        description="The workers that counted most of what the rule is about, the first one the most.",
    )
    at: UtcTime

    @model_validator(mode="before")
    @classmethod
    def _of_a_version_without_scope(cls, fields: object) -> object:
        """Earlier versions wrote no `scope`; PostgreSQL keeps such alerts while they fire."""
        if isinstance(fields, dict) and "scope" not in fields and fields.get("model_name") == "":
            return {**fields, "scope": "global"}
        return fields


class RouteHint(WireModel):
    """A hint that a route changed, on the Redis channel `headrace:INSTALLATION:routes`; the registry is authoritative.

    A reader that has read the registry at `epoch` or later ignores the hint.
    """

    model_name: ModelName
    revision: Count
    epoch: Count
