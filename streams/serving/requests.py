"""PURE. From a record to a request that can be worked on, step by step."""

import sys
from collections.abc import Container
from typing import Annotated

import msgspec
from pydantic import ValidationError

from schemas.errors import (
    AnswerError,
    DeadlineExceededError,
    InvalidRequestError,
    MalformedRecordError,
    NoActiveVersionError,
    StaleRouteError,
    UnknownModelError,
)
from schemas.events import JsonObject, PredictRequest
from schemas.json_schema import MAX_DETAILS
from schemas.validation import error_details, problems
from schemas.wire import MAX_INPUT_NESTING, canonical, digest, read_object
from streams.kafka.offset_tracker import Record
from streams.serving.route_table import ServedVersion, ServingTable

DEADLINE_PASSED = "deadline_ms passed before there was a result"

_validate = PredictRequest.__pydantic_validator__.validate_python


class _PlainRequest(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """What almost every record holds. Parsing and checking in one costs a third of doing it in two.

    It lets nothing through that the strict reader refuses, and reads it alike, which property tests
    hold; `parse` and `route_and_validate` look at what it leaves open. What it refuses is read strictly.
    """

    request_id: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    model_name: str
    user_id: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    input: JsonObject
    deadline_ms: Annotated[int, msgspec.Meta(ge=1, le=600_000)] | None = None


_read_plain = msgspec.json.Decoder(_PlainRequest).decode


class RequestContext:
    """One request on its way, filled as far as its record allows.

    The defaults are the class's, so that a request that goes well sets each attribute once.
    """

    request_id = ""
    model_name = ""
    user_id = ""
    input: JsonObject
    deadline_unix_ms: float | None = None
    """Unix time in milliseconds."""
    version: ServedVersion | None = None
    revision = 0
    digest = b""
    """Hexadecimal, once the input is known to be valid."""
    cache_key = b""
    failure: AnswerError | None = None
    """What became of it at its own version, when production is to answer it."""

    def __init__(self, record: Record) -> None:
        self.record = record

    @property
    def model_version(self) -> str:
        """Empty while no version was reached."""
        return "" if self.version is None else self.version.spec.version


def parse(work: RequestContext, known_models: Container[str], max_bytes: int) -> None:
    """Parse and validate the record; `known_models` are names that need no checking any more.

    Raises MalformedRecordError when no `request_id` can be read, and InvalidRequestError when only
    the rest is wrong.
    """
    value = work.record.value
    request: _PlainRequest | PredictRequest
    if value is None or len(value) > max_bytes:
        request = _read_strictly(work, max_bytes)
    else:
        try:
            request = _read_plain(value)
            # Control characters are not printable, and the names of registered models are good.
            if not request.request_id.isprintable() or request.model_name not in known_models:
                request = _read_strictly(work, max_bytes)
        except (ValueError, RecursionError):
            request = _read_strictly(work, max_bytes)
    work.request_id = request.request_id
    work.model_name = request.model_name
    work.user_id = request.user_id
    work.input = request.input
    if request.deadline_ms is not None:
        work.deadline_unix_ms = work.record.timestamp + request.deadline_ms


def route_and_validate(
    work: RequestContext, table: ServingTable, now_ms: float, *, stale: bool
) -> ServedVersion:
    """Route a request that was read and check its input; `now_ms` is Unix time, `stale` the table's state.

    Raises DeadlineExceededError, UnknownModelError, NoActiveVersionError, StaleRouteError,
    InvalidInputError, and InvalidRequestError for an input that is nested too deeply.
    """
    if is_overdue(work, now_ms):
        raise DeadlineExceededError(DEADLINE_PASSED)
    model = table.models.get(work.model_name)
    if model is None:
        raise UnknownModelError(f"no model {work.model_name} is registered")
    work.revision = model.revision
    version = model.version_for(work.user_id)
    if version is None:
        raise NoActiveVersionError(f"no version of {work.model_name} takes traffic; promote one")
    work.version = version
    if stale and version.fails_when_stale:
        raise StaleRouteError(
            f"the registry cannot be read, and {version.spec.version} does not answer by a route that may be old"
        )
    try:
        form = canonical(work.input)
    except ValueError:
        form = _canonical_strictly(work)
    if not version.input_is_valid(work.input):
        raise version.refuse_input(work.input)
    work.digest = digest(form)
    work.cache_key = version.cache_prefix + work.digest
    return version


def is_overdue(work: RequestContext, now_ms: float) -> bool:
    """Whether the request's deadline has passed; `now_ms` is Unix time."""
    return work.deadline_unix_ms is not None and now_ms >= work.deadline_unix_ms


def _read_strictly(work: RequestContext, max_bytes: int) -> PredictRequest:
    document = read_object(work.record.value, max_bytes)
    try:
        request: PredictRequest = _validate(document)
    except ValidationError as error:
        raise _refusal(work, document, error) from None
    return request


def _canonical_strictly(work: RequestContext) -> bytes:
    """The canonical form where it is not to be had as the input was read.

    The plain reader keeps integers beyond 64 bits, which are floating-point numbers by the contract.
    """
    work.input = read_object(work.record.value, sys.maxsize)["input"]
    try:
        return canonical(work.input)
    except ValueError:
        raise InvalidRequestError(f"input is nested deeper than {MAX_INPUT_NESTING} levels") from None


def _refusal(
    work: RequestContext, document: JsonObject, error: ValidationError
) -> InvalidRequestError | MalformedRecordError:
    found = problems(error)
    wrong = {problem.location[0] for problem in found}
    if "request_id" in wrong:
        return MalformedRecordError("no usable request_id: 1 to 128 characters, no control characters")
    work.request_id = document["request_id"]
    # What is wrong is not echoed: it may be of any type and size.
    work.model_name = "" if "model_name" in wrong else document["model_name"]
    work.user_id = "" if "user_id" in wrong else document["user_id"]
    return InvalidRequestError("the request breaks the contract", error_details(found[:MAX_DETAILS]))
