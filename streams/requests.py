"""PURE. From a record to a request that can be worked on, step by step."""

from pydantic import ValidationError

from schemas.errors import (
    DeadlineExceededError,
    InvalidRequestError,
    MalformedRecordError,
    NoActiveVersionError,
    UnknownModelError,
)
from schemas.events import ErrorDetail, JsonObject, PredictRequest
from schemas.json_schema import MAX_DETAILS, compile_schema
from schemas.wire import MAX_INPUT_NESTING, canonical, digest, read_object
from streams.ledger import Record
from streams.serving import ServedVersion, ServingTable

DEADLINE_PASSED = "deadline_ms passed before there was a result"

# The published schema decides; pydantic explains, at twice the price, when it says no. That both
# say the same is tested.
_is_request = compile_schema(PredictRequest.model_json_schema()).is_valid
_explain = PredictRequest.__pydantic_validator__.validate_python


class Work:
    """One request on its way, filled as far as its record allows.

    The defaults are the class's, so that a request that goes well sets each attribute once.
    """

    request_id = ""
    model_name = ""
    user_id = ""
    input: JsonObject
    deadline_at_ms: float | None = None
    """Unix time in milliseconds."""
    version: ServedVersion | None = None
    revision = 0
    digest = b""
    """Hexadecimal, once the input is known to be valid."""
    cache_key = b""

    def __init__(self, record: Record) -> None:
        self.record = record

    @property
    def model_version(self) -> str:
        """Empty while no version was reached."""
        return "" if self.version is None else self.version.spec.version


def read(work: Work, max_bytes: int) -> None:
    """Parse and validate the record.

    Raises MalformedRecordError when no `request_id` can be read, and InvalidRequestError when only
    the rest is wrong.
    """
    document = read_object(work.record.value, max_bytes)
    deadline_ms = document.get("deadline_ms")
    # To JSON Schema 250.0 is an integer; to the contract it is not.
    if not _is_request(document) or (deadline_ms is not None and type(deadline_ms) is not int):
        try:
            _explain(document)
        except ValidationError as error:
            raise _refusal(work, document, error) from None
    work.request_id = document["request_id"]
    work.model_name = document["model_name"]
    work.user_id = document["user_id"]
    work.input = document["input"]
    if deadline_ms is not None:
        work.deadline_at_ms = work.record.timestamp + deadline_ms


def admit(work: Work, table: ServingTable, now_ms: float) -> ServedVersion:
    """Route a request that was read and check its input; `now_ms` is Unix time.

    Raises DeadlineExceededError, UnknownModelError, NoActiveVersionError, InvalidInputError, and
    InvalidRequestError for an input that is nested too deeply.
    """
    if work.deadline_at_ms is not None and now_ms >= work.deadline_at_ms:
        raise DeadlineExceededError(DEADLINE_PASSED)
    model = table.models.get(work.model_name)
    if model is None:
        raise UnknownModelError(f"no model {work.model_name} is registered")
    work.revision = model.revision
    version = model.version_for(work.user_id)
    if version is None:
        raise NoActiveVersionError(f"no version of {work.model_name} takes traffic; promote one")
    work.version = version
    value = work.input
    try:
        form = canonical(value)
    except ValueError:
        raise InvalidRequestError(f"input is nested deeper than {MAX_INPUT_NESTING} levels") from None
    if not version.input_is_valid(value):
        raise version.refuse_input(value)
    work.digest = digest(form).encode()
    work.cache_key = version.cache_prefix + work.digest
    return version


def is_overdue(work: Work, now_ms: float) -> bool:
    """Whether the request's deadline has passed; `now_ms` is Unix time."""
    return work.deadline_at_ms is not None and now_ms >= work.deadline_at_ms


def _refusal(
    work: Work, document: JsonObject, error: ValidationError
) -> InvalidRequestError | MalformedRecordError:
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    wrong = {problem["loc"][0] for problem in problems}
    if "request_id" in wrong:
        return MalformedRecordError("no usable request_id: 1 to 128 characters, no control characters")
    work.request_id = document["request_id"]
    # What is wrong is not echoed: it may be of any type and size.
    work.model_name = "" if "model_name" in wrong else document["model_name"]
    work.user_id = "" if "user_id" in wrong else document["user_id"]
    return InvalidRequestError(
        "the request breaks the contract",
        [
            ErrorDetail(path="".join(f"/{step}" for step in problem["loc"]), message=problem["msg"])
            for problem in problems[:MAX_DETAILS]
        ],
    )
