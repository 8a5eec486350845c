"""PURE. From a record to a request with its version: parse, then route and validate."""

import sys
from collections.abc import Container
from typing import Annotated

import msgspec
from pydantic import ValidationError

from schemas.errors import (
    DeadlineExceededError,
    InvalidRequestError,
    MalformedRecordError,
    NoActiveVersionError,
    StaleRouteError,
    UnknownModelError,
)
from schemas.events import JsonObject, PredictRequest
from schemas.json_schema import MAX_DETAILS, Explanations
from schemas.misframed import envelope
from schemas.record_time import describe_age
from schemas.validation import error_details, problems
from schemas.wire import MAX_INPUT_NESTING, canonical, digest, read_object
from streams.kafka.offset_tracker import Record
from streams.serving.route_table import ServedVersion, ServingTable

INTERNAL_FAULT = "a fault inside Headrace; see its log"

_validate = PredictRequest.__pydantic_validator__.validate_python


class PlainRequest(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """The form of almost every record; one pass that parses and checks costs a third of two passes.

    It accepts nothing that the strict reader refuses, and reads it alike (property tests hold both); `parse`
    and `route_and_validate`, or `plain_requests.py`, check what it leaves open. The strict reader reads again what it refuses.
    """

    request_id: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    model_name: str
    user_id: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    input: JsonObject
    deadline_ms: Annotated[int, msgspec.Meta(ge=1, le=600_000)] | None = None


read_plain = msgspec.json.Decoder(PlainRequest).decode


class RequestContext(msgspec.Struct, eq=False, gc=False):
    """One request of a slice.

    `parse` and `route_and_validate` fill it, as far as its record allows, or `plain_requests.py` makes it as a whole;
    after them, and `refer_to_model`, it does not change. Requests are compared by identity.
    """

    record: Record
    request_id: str = ""
    model_name: str = ""
    user_id: str = ""
    input: JsonObject = msgspec.field(default_factory=dict)
    deadline_unix_ms: float | None = None
    version: ServedVersion | None = None
    """The version that the request is routed to."""
    revision: int = 0
    """The revision of the model's route; 0 while the model is not known to exist."""
    digest: bytes = b""
    """The input's digest in hexadecimal; empty until the input is valid."""

    @property
    def model_version(self) -> str:
        """Empty while the request is not routed."""
        return "" if self.version is None else self.version.spec.version

    def refer_to_model(self, table: ServingTable) -> None:
        """Let a request that was refused before it was routed count for its model, if it names one that is known."""
        model = table.models.get(self.model_name)
        if model is not None:
            self.revision = model.revision

    def deadline_exceeded(self, now_unix_ms: float) -> DeadlineExceededError:
        """The error of an overdue request, with the age of its record: the timestamp may be wrong."""
        age = describe_age(self.record.timestamp, now_unix_ms)
        return DeadlineExceededError(f"deadline_ms passed before there was a result; {age}")


Requests = dict[ServedVersion, list[RequestContext]]
"""Requests by the version that is to answer them."""


def parse(context: RequestContext, known_models: Container[str], max_bytes: int) -> None:
    """Parse the record and check its fields; the names in `known_models` count as valid.

    Raises MalformedRecordError when the record has no usable `request_id`, and InvalidRequestError when another
    field is wrong.
    """
    value = context.record.value
    request: PlainRequest | PredictRequest
    if value is None or len(value) > max_bytes:
        request = _read_strictly(context, max_bytes)
    else:
        try:
            request = read_plain(value)
            # Control characters are not printable, and the names of registered models are valid.
            if not request.request_id.isprintable() or request.model_name not in known_models:
                request = _read_strictly(context, max_bytes)
        except (ValueError, RecursionError):
            request = _read_strictly(context, max_bytes)
    context.request_id = request.request_id
    context.model_name = request.model_name
    context.user_id = request.user_id
    context.input = request.input
    if request.deadline_ms is not None:
        context.deadline_unix_ms = context.record.timestamp + request.deadline_ms


def route_and_validate(
    context: RequestContext,
    table: ServingTable,
    now_unix_ms: float,
    *,
    stale: bool,
    explanations: Explanations,
) -> ServedVersion:
    """Choose the version of a parsed request and check its input against the version's schema.

    `stale` says that the table may be older than the registry. An invalid input is explained within the budget of
    `explanations`. Raises DeadlineExceededError, UnknownModelError,
    NoActiveVersionError, StaleRouteError, InvalidInputError, and InvalidRequestError for an input with too many
    nested levels.
    """
    # Most requests have no deadline.
    if context.deadline_unix_ms is not None and is_overdue(context, now_unix_ms):
        raise context.deadline_exceeded(now_unix_ms)
    model = table.models.get(context.model_name)
    if model is None:
        raise UnknownModelError(f"no model {context.model_name} is registered")
    context.revision = model.revision
    version = model.version_for(context.user_id)
    if version is None:
        raise NoActiveVersionError(f"no version of {context.model_name} takes traffic; promote one")
    context.version = version
    if stale and version.fails_when_stale:
        raise StaleRouteError(
            f"the registry cannot be read, and {version.spec.version} refuses requests on a route that may be stale"
        )
    try:
        form = canonical(context.input)
    except ValueError:
        form = _canonical_strictly(context)
    if not version.input_is_valid(context.input):
        raise version.refuse_input(context.input, explanations)
    context.digest = digest(form)
    return version


def is_overdue(context: RequestContext, now_unix_ms: float) -> bool:
    """Whether the request's deadline has passed."""
    return context.deadline_unix_ms is not None and now_unix_ms >= context.deadline_unix_ms


def _read_strictly(context: RequestContext, max_bytes: int) -> PredictRequest:
    document = read_object(context.record.value, max_bytes)
    try:
        request: PredictRequest = _validate(document)
    except ValidationError as error:
        raise _refusal(context, document, error) from None
    return request


def _canonical_strictly(context: RequestContext) -> bytes:
    """The canonical form of an input that the plain reader did not read as the contract says.

    The plain reader keeps integers beyond 64 bits; the contract makes them floating-point numbers.
    """
    context.input = read_object(context.record.value, sys.maxsize)["input"]
    try:
        return canonical(context.input)
    except ValueError:
        raise InvalidRequestError(f"input is nested deeper than {MAX_INPUT_NESTING} levels") from None


def _refusal(
    context: RequestContext, document: JsonObject, error: ValidationError
) -> InvalidRequestError | MalformedRecordError:
    found = problems(error)
    wrong = {problem.location[0] for problem in found}
    if "request_id" in wrong:
        message = "no usable request_id: 1 to 128 characters, no control characters"
        if (field := envelope(document, "request_id")) is not None:
            message += f"; the request seems to be wrapped in the field {field}: send it alone"
        return MalformedRecordError(message)
    context.request_id = document["request_id"]
    # The response does not echo a wrong field: it may have any type and size.
    context.model_name = "" if "model_name" in wrong else document["model_name"]
    context.user_id = "" if "user_id" in wrong else document["user_id"]
    return InvalidRequestError("the request breaks the contract", error_details(found[:MAX_DETAILS]))
