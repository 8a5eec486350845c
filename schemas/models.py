"""Models, versions, their states and routes, and the promotion events that change them.

It has over 300 lines because they are one document on the wire, which is easier to read in one place.
"""

from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)

from schemas.bounds import Count, Identifier, Label, Message, Reason, Uri, UtcTime, few
from schemas.errors import PromotionRejectedError, RejectionCode
from schemas.events import JsonObject, ModelName, VersionName, WireModel
from schemas.mapping import ContentType, Mapping
from schemas.wire import canonical

BUCKETS = 10_000
# Each change of a model is shown with its figures, and the audit trail keeps them for ever.
MAX_METRICS_BYTES = 16 * 1024
MAX_TAGS = 32
DEFAULT_CACHE_SECONDS = 300

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Status(StrEnum):
    """The state of a version; `registry/lifecycle.py` has the legal moves."""

    STAGING = "staging"
    CANARY = "canary"
    PRODUCTION = "production"
    ARCHIVED = "archived"


class Framework(StrEnum):
    """How a version is served."""

    ONNX = "onnx"
    OPEN_INFERENCE = "open-inference"
    TENSORFLOW = "tensorflow"
    TORCHSERVE = "torchserve"


class StalePolicy(StrEnum):
    """What a worker answers while it cannot read the registry."""

    SERVE_STALE = "serve_stale"
    FAIL = "fail"


class RequestForm(StrEnum):
    """How a batch is written for a server with TensorFlow Serving's REST API.

    `row` makes each input an object of `instances`; `value` makes the one value in it an instance, for
    models with one unnamed input; `column` writes `inputs`, each tensor with its whole batch.
    """

    ROW = "row"
    VALUE = "value"
    COLUMN = "column"


# One segment of a URL's path; it cannot contain a slash or dots that climb.
ServerSideName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$")]


# host[:port] as in a URL.
ServerHost = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?(:[0-9]{1,5})?$")
]


class ServerOptions(WireModel):
    """How a model server is called.

    With `model`, `endpoint` is the server's address, and the model's path is built from `model` and `version`.
    Without `model`, `endpoint` is the model's own URL.
    """

    model: ServerSideName | None = Field(default=None, description="The model's name at the server.")
    version: ServerSideName | None = Field(
        default=None, description="Its version at the server; absent = the server chooses."
    )
    host: ServerHost | None = Field(
        default=None,
        description="The `Host` header, for a gateway that routes by it; it must be allowed as the endpoint's host is. "
        "Absent = the endpoint's.",
    )
    content_type: ContentType | None = Field(
        default=None,
        description="`open-inference` only: `parameters.content_type` of a request, as MLServer reads it: `pd`, `np`.",
    )
    max_calls: Annotated[int, Field(ge=1, le=256)] = Field(
        default=32, description="Limit of concurrent calls; each worker finds its own limit below it."
    )
    connect_timeout_ms: Annotated[int, Field(ge=1, le=600_000)] = Field(
        default=500, description="Limit of connecting, within timeout_ms."
    )
    form: Annotated[RequestForm, Field(strict=False)] = Field(
        default=RequestForm.ROW,
        description="`tensorflow` only: `instances` of objects (`row`) or of bare values (`value`), or "
        "`inputs` by tensor (`column`).",
    )
    signature_name: ServerSideName | None = Field(
        default=None, description="`tensorflow` only: the signature; absent = the server's default."
    )

    @model_validator(mode="after")
    def _version_is_of_a_model(self) -> Self:
        if self.version is not None and self.model is None:
            raise ValueError("server.version needs server.model; without it, endpoint is the model's own URL")
        return self


class Example(WireModel):
    """One input, and its predictions where they are known."""

    input: JsonObject = Field(description="An input as in a request.")
    predictions: Any = Field(
        default=None, description="What the model predicts for it; absent = `check` compares nothing."
    )


class Fallback(StrEnum):
    """Which version answers when a version's backend fails, or too many requests wait for it."""

    PRODUCTION = "production"


def _within_limit(metrics: dict[str, Any]) -> dict[str, Any]:
    try:
        size_bytes = len(canonical(metrics))
    except ValueError:
        # What has no form in JSON is refused by `event_body`, which says why.
        return metrics
    if size_bytes > MAX_METRICS_BYTES:
        raise ValueError(f"the metrics have more than {MAX_METRICS_BYTES} bytes of JSON")
    return metrics


class ModelSpec(WireModel):
    """An immutable model version as an operator registers it (`model` in action `register`).

    `onnx` needs `artifact_uri` and `artifact_sha256`; the others need `endpoint`.
    """

    version: VersionName = Field(
        description="Its name within the model: letters, digits, and `._+-` behind the first character; up to 64."
    )
    framework: Annotated[Framework, Field(strict=False)] = Field(description="What computes the predictions.")
    artifact_uri: Uri | None = Field(
        default=None,
        description="The model file of `onnx`: `file:///PATH`, `s3://BUCKET/KEY`, `https://HOST/PATH` or "
        "`mlflow:/NAME/VERSION`.",
    )
    artifact_sha256: Sha256 | None = Field(
        default=None, description="The digest of that file; a worker loads no other content."
    )
    endpoint: Uri | None = Field(
        default=None, description="The URL of the model server, for all frameworks but `onnx`."
    )
    server: ServerOptions = Field(
        default=ServerOptions(), description="How the model server is called; see below."
    )
    mapping: Mapping | None = Field(
        default=None, description="Declared tensors, for `onnx`, `open-inference` and `tensorflow`."
    )
    example: Example | None = Field(
        default=None,
        description="Validated by both schemas and the mapping when the version is registered.",
    )
    input_schema: JsonObject = Field(description="JSON Schema 2020-12 of a request's input.")
    output_schema: JsonObject = Field(description="JSON Schema 2020-12 of a response's predictions.")
    metrics: Annotated[dict[str, Any], AfterValidator(_within_limit)] = Field(
        default={}, description="Offline figures: accuracy, latency_p50_ms, …; at most 16 KiB of JSON."
    )
    cache_ttl_seconds: Annotated[int, Field(ge=0, le=31_536_000)] | None = Field(
        default=None,
        description="How long a prediction may be served from the cache to equal inputs; 0 = never. Absent = 300, but 0 for a "
        "`tensorflow` version without a version at the server: that server answers by its newest one.",
    )
    timeout_ms: Annotated[int, Field(ge=1, le=600_000)] = Field(
        default=2000, description="Limit of one call to the backend."
    )
    max_batch: Annotated[int, Field(ge=1, le=4096)] | None = Field(
        default=None,
        description="Limit of examples in one call; absent = 2048 for `onnx` and 256 for model servers. "
        "A `torchserve` call always has one example: that server batches calls itself.",
    )
    max_waiting: Annotated[int, Field(ge=1, le=10_000_000)] | None = Field(
        default=None,
        description="Limit of the requests that wait for this version in one worker. One beyond it is answered at once, by "
        "`fallback` or with OVERLOADED. Absent = no limit: a backlog waits in Kafka and is worked off.",
    )
    max_waiting_bytes: Annotated[int, Field(ge=1, le=2**40)] | None = Field(
        default=None, description="As `max_waiting`, for the bytes of these requests' records."
    )
    fallback: Annotated[Fallback, Field(strict=False)] | None = Field(
        default=None,
        description="`production`: when this version's backend fails, or too many requests wait for it, the version in "
        "production answers, and the response is marked `fallback`.",
    )
    stale_policy: Annotated[StalePolicy, Field(strict=False)] = Field(
        default=StalePolicy.SERVE_STALE,
        description="While the worker cannot read the registry: `serve_stale` answers by the last known route, marked "
        "`stale`; `fail` answers with the error STALE_ROUTE.",
    )
    created_by: Label = Field(default="", description="Who made the version, for people.")
    description: Reason = Field(
        default="", description="What the version is, for people; it does not change how it is served."
    )
    tags: Annotated[dict[Identifier, Label], Field(max_length=MAX_TAGS)] = Field(
        default={},
        description="Names and values for people and programs; they do not change how it is served.",
    )

    @model_validator(mode="after")
    def _has_what_its_framework_needs(self) -> Self:
        if self.framework is Framework.ONNX:
            if self.artifact_uri is None or self.artifact_sha256 is None:
                raise ValueError("framework onnx needs artifact_uri and artifact_sha256")
        elif self.endpoint is None:
            raise ValueError(f"framework {self.framework} needs endpoint")
        tensors = () if self.mapping is None else self.mapping.inputs.values()
        if self.framework is not Framework.TENSORFLOW and any(tensor.is_base64 for tensor in tensors):
            raise ValueError("is_base64 is for framework tensorflow; the others send strings as they are")
        if self.framework is not Framework.OPEN_INFERENCE and (
            self.server.content_type is not None or any(tensor.content_type is not None for tensor in tensors)
        ):
            raise ValueError(
                "content_type is for framework open-inference; the others have no such parameter"
            )
        if self.framework is Framework.TORCHSERVE and self.mapping is not None:
            raise ValueError("framework torchserve sends the input as it is; it takes no mapping")
        return self


def served_form(spec: ModelSpec) -> JsonObject:
    """PURE. The fields of a version without `description` and `tags`: what its predictions may depend on.

    Digests are of this form. A description that is added, or a release that knows more of such fields, makes no cache
    cold.
    """
    return spec.model_dump(mode="json", exclude={"description", "tags"})


class Registration(WireModel):
    """The file of `headrace register` and `check`: a version, and the model that it belongs to."""

    model_name: ModelName
    model: ModelSpec


def is_unpinned(spec: ModelSpec) -> bool:
    """PURE. Whether the predictions of a version change without a promotion: when its server loads a newer one.

    TensorFlow Serving looks for new versions by itself.
    """
    return (
        spec.framework is Framework.TENSORFLOW
        and spec.server.version is None
        and "/versions/" not in (spec.endpoint or "")
    )


def cache_seconds(spec: ModelSpec) -> int:
    """PURE. How long a version's predictions may be served from the cache; 0 = never."""
    if spec.cache_ttl_seconds is not None:
        return spec.cache_ttl_seconds
    return 0 if is_unpinned(spec) else DEFAULT_CACHE_SECONDS


def stored_form(spec: ModelSpec) -> ModelSpec:
    """PURE. A version as the registry stores it: `cache_ttl_seconds` is a number.

    Workers of an earlier release read the same row, and refuse a null there.
    """
    return spec.model_copy(update={"cache_ttl_seconds": cache_seconds(spec)})


class BucketRange(WireModel):
    """Buckets `start` (included) to `end` (excluded) go to `version`."""

    start: Annotated[int, Field(ge=0, lt=BUCKETS)]
    end: Annotated[int, Field(gt=0, le=BUCKETS)]
    version: VersionName


class Route(WireModel):
    """Which version each of the 10,000 buckets gets.

    `ranges` are ordered and cover 0 to 9999 exactly, or are empty while no version takes traffic.
    """

    salt: Label
    ranges: tuple[BucketRange, ...]

    @model_validator(mode="after")
    def _covers_every_bucket_once(self) -> Self:
        position = 0
        for part in self.ranges:
            if part.start != position or part.end <= part.start:
                raise ValueError(f"ranges leave a gap or overlap at bucket {position}")
            position = part.end
        if self.ranges and position != BUCKETS:
            raise ValueError(f"ranges end at bucket {position}, not {BUCKETS}")
        return self


class Action(StrEnum):
    """The change that a promotion event requests."""

    REGISTER = "register"
    CANARY = "canary"
    SPLIT = "split"
    PROMOTE = "promote"
    ROLLBACK = "rollback"
    ARCHIVE = "archive"
    RESHUFFLE = "reshuffle"


def _not_text(value: object) -> object:
    if isinstance(value, str):
        raise ValueError("a weight is a number, not text")  # noqa: TRY004 - pydantic reports only ValueError
    return value


# A JSON number becomes a Decimal through its shortest text, so that 5.1 is 510 buckets and not 509.
MAX_WEIGHTS = 1000

Weight = Annotated[
    Decimal,
    Field(strict=False, allow_inf_nan=False),
    BeforeValidator(_not_text),
    PlainSerializer(float, return_type=float, when_used="json"),
    WithJsonSchema({"type": "number"}),
]


class PromotionEvent(WireModel):
    """A change that an operator asks for; topic `model-promotions`, key `model_name`."""

    event_id: Identifier
    model_name: ModelName
    action: Annotated[Action, Field(strict=False)]
    version: VersionName | None = None
    weight: Weight | None = Field(default=None, description="Percent, two decimals, 0 < w < 100.")
    weights: Annotated[dict[VersionName, Weight], Field(max_length=MAX_WEIGHTS), few(MAX_WEIGHTS)] | None = (
        None
    )
    model: ModelSpec | None = None
    salt: Identifier | None = None
    actor: Label = ""
    reason: Reason = ""
    expected_revision: Count | None = None
    force: bool = Field(
        default=False, description="Give traffic also to a version that no live worker can load."
    )


def event_body(event: PromotionEvent) -> bytes:
    """PURE. The canonical JSON of an event, without defaults: what is sent, and what equal events share.

    A field that a later release adds changes nothing about older events. Raises PromotionRejectedError when the
    event has no form in JSON.
    """
    try:
        return canonical(event.model_dump(mode="json", exclude_defaults=True))
    except ValueError as error:
        raise PromotionRejectedError(
            RejectionCode.INVALID_EVENT, f"the event has no form in JSON ({error}); send it without that"
        ) from None


class PromotionError(WireModel):
    """Why a promotion was refused, and what to do about it."""

    code: Label
    message: Message


class PromotionResult(WireModel):
    """The result of a promotion event; topic `model-promotion-results`, key `model_name`."""

    event_id: Label
    model_name: Label
    action: Label
    status: Literal["applied", "rejected"]
    revision: Count
    epoch: Count = Field(
        default=0,
        description="Number of the change among those of all models. A worker that has read this epoch serves the result.",
    )
    route: Route | None
    error: PromotionError | None
    applied_at: UtcTime
    actor: Label
    unchanged: bool = Field(
        default=False,
        description="True when nothing had to be changed: the version was registered with the same content before.",
    )
