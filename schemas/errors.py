"""The error tree. Each branch says what to do with what it names.

HeadraceError
├── MalformedRecordError       dead-letter: no request_id can be read, so nobody can be answered
├── AnswerError                answer with `error`, nothing else
│   ├── InvalidRequestError
│   ├── InvalidInputError
│   ├── UnknownModelError
│   ├── NoActiveVersionError
│   ├── StaleRouteError
│   ├── DeadlineExceededError
│   ├── OverloadedError
│   └── AnswerAndDeadLetterError   answer with `error` and keep the record as a dead letter
│       ├── BackendUnavailableError
│       ├── BackendFailedError
│       │   └── BackendBrokenError
│       ├── InvalidOutputError
│       └── InternalError
├── PromotionRejectedError     tell the operator; the state did not change
├── UnavailableError           try again later, go on without it if you can
│   ├── BrokerUnavailableError
│   ├── CacheUnavailableError
│   ├── RegistryUnavailableError
│   └── ResponseTimeoutError
├── ArtifactError              do not route to this version here; the old route stays
└── SetupError                 stop, and say what to change
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import ClassVar

from schemas.events import ErrorCode, ErrorDetail


class HeadraceError(Exception):
    """Root of all errors that Headrace raises on purpose."""


class MalformedRecordError(HeadraceError):
    """The record cannot be read: it becomes a dead letter and gets no response."""

    code: ClassVar[str] = "MALFORMED_RECORD"


class AnswerError(HeadraceError):
    """The request is answered with `error`.

    `details` holds at most ten entries, each with a JSON pointer into `input` or the request.
    """

    code: ClassVar[ErrorCode]
    dead_letter: ClassVar[bool] = False

    def __init__(self, message: str, details: Sequence[ErrorDetail] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.details = details


class InvalidRequestError(AnswerError):
    """Well-formed JSON with a usable `request_id`, but the rest breaks the contract."""

    code = ErrorCode.INVALID_REQUEST


class InvalidInputError(AnswerError):
    """`input` fails the chosen version's schema."""

    code = ErrorCode.INVALID_INPUT


class UnknownModelError(AnswerError):
    """No model of that name is registered."""

    code = ErrorCode.UNKNOWN_MODEL


class NoActiveVersionError(AnswerError):
    """The model exists, but no version of it takes traffic."""

    code = ErrorCode.NO_ACTIVE_VERSION


class StaleRouteError(AnswerError):
    """The registry cannot be read, and the version does not answer by an old route (`stale_policy`)."""

    code = ErrorCode.STALE_ROUTE


class DeadlineExceededError(AnswerError):
    """`deadline_ms` passed before there was a result."""

    code = ErrorCode.DEADLINE_EXCEEDED


class OverloadedError(AnswerError):
    """Shed by a declared limit."""

    code = ErrorCode.OVERLOADED


class AnswerAndDeadLetterError(AnswerError):
    """The request is answered with `error`, and its record is kept as a dead letter."""

    dead_letter = True


class BackendUnavailableError(AnswerAndDeadLetterError):
    """The model server could not be reached, or did not answer in time."""

    code = ErrorCode.BACKEND_UNAVAILABLE


class BackendFailedError(AnswerAndDeadLetterError):
    """The model server answered, but not with predictions."""

    code = ErrorCode.BACKEND_ERROR


class BackendBrokenError(BackendFailedError):
    """The model server answered as none does that works, which speaks against it and not against the input."""


class InvalidOutputError(AnswerAndDeadLetterError):
    """The model's output fails the version's `output_schema`."""

    code = ErrorCode.INVALID_OUTPUT


class InternalError(AnswerAndDeadLetterError):
    """A fault of ours."""

    code = ErrorCode.INTERNAL


class RejectionCode(StrEnum):
    """Why a promotion was refused."""

    UNKNOWN_MODEL = "UNKNOWN_MODEL"
    UNKNOWN_VERSION = "UNKNOWN_VERSION"
    VERSION_EXISTS = "VERSION_EXISTS"
    ILLEGAL_TRANSITION = "ILLEGAL_TRANSITION"
    BAD_WEIGHT = "BAD_WEIGHT"
    STALE_REVISION = "STALE_REVISION"
    EVENT_CONFLICT = "EVENT_CONFLICT"
    INVALID_EVENT = "INVALID_EVENT"


class PromotionRejectedError(HeadraceError):
    """A promotion was refused and nothing changed; the message says what the operator can do."""

    def __init__(self, code: RejectionCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class UnavailableError(HeadraceError):
    """A service did not answer: try again later, go on without it where that is possible."""


class BrokerUnavailableError(UnavailableError):
    """Kafka did not answer."""


class CacheUnavailableError(UnavailableError):
    """Redis did not answer: predictions go on without the cache."""


class RegistryUnavailableError(UnavailableError):
    """PostgreSQL did not answer: workers go on with the snapshot they hold."""


class ResponseTimeoutError(UnavailableError):
    """A request was sent, and no response to it was seen in time; it may still be answered."""

    def __init__(self, request_id: str, timeout_seconds: float) -> None:
        super().__init__(
            f"no response to {request_id} within {timeout_seconds:g} s; is a worker running (`headrace worker`)?"
        )
        self.request_id = request_id


class ArtifactError(HeadraceError):
    """A model artifact cannot be fetched, verified or loaded: do not route to it."""


class SetupError(HeadraceError):
    """The process cannot start as configured; the message says what to change."""
