"""The error tree. Each branch stands for one reaction, which is written beside it.

HeadraceError
├── MalformedRecordError       write a dead letter; without a request_id there is nobody to answer
├── SteppedOverError           write a dead letter with the place and the reason, and continue behind it
│   ├── UnreadableBatchError
│   ├── AbandonedRecordError
│   └── SkippedRecordError
├── AnswerError                answer with `error`
│   ├── InvalidRequestError
│   ├── InvalidInputError
│   ├── UnknownModelError
│   ├── NoActiveVersionError
│   ├── StaleRouteError
│   ├── DeadlineExceededError
│   │   └── DeadlineOutOfReachError
│   ├── OverloadedError
│   └── AnswerAndDeadLetterError   answer with `error` and write a dead letter
│       ├── BackendUnavailableError
│       │   └── BackendTimeoutError
│       ├── BackendFailedError
│       │   ├── BackendBrokenError
│       │   ├── BackendTooLargeError
│       │   └── NonFiniteResultError
│       ├── InvalidOutputError
│       └── InternalError
├── PromotionRejectedError     report to the operator; the state did not change
├── UnavailableError           try again later, or continue without the service
│   ├── BrokerUnavailableError
│   ├── CacheUnavailableError
│   ├── RegistryUnavailableError
│   │   └── RegistryFaultError
│   ├── ResponseTimeoutError
│   └── VersionOverloadedError
├── DataRefusedError           count the record as unreadable and skip it
├── ArtifactError              try the load again later; the older route stays, if there is one
│   ├── LoadTimeoutError
│   └── LoadPostponedError
└── SetupError                 stop the process; the message says what to change
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import ClassVar

from schemas.events import ErrorCode, ErrorDetail, PredictResponse


class HeadraceError(Exception):
    """The root of all errors that Headrace raises deliberately."""


class MalformedRecordError(HeadraceError):
    """The record cannot be parsed: it becomes a dead letter and gets no response."""

    code: ClassVar[str] = "MALFORMED_RECORD"


class SteppedOverError(HeadraceError):
    """Records that are not processed; nobody is answered."""

    code: ClassVar[str]


class UnreadableBatchError(SteppedOverError):
    """The records of a Kafka batch cannot be read, or exceed a limit: one dead letter names the offsets of them all."""

    code = "UNREADABLE_BATCH"


class AbandonedRecordError(SteppedOverError):
    """A record was in progress when too many processes ended, the last time alone: it may have ended them."""

    code = "ABANDONED_RECORD"


class SkippedRecordError(SteppedOverError):
    """A person skipped the record by `headrace skip`; the message is the reason that was given."""

    code = "SKIPPED_RECORD"


class AnswerError(HeadraceError):
    """The request is answered with `error`.

    `details` has at most ten entries, each with a JSON pointer into `input` or into the request. `of_input` is True for
    an error of a backend with evidence that the input is at fault: the backend predicts others.
    """

    code: ClassVar[ErrorCode]
    dead_letter: ClassVar[bool] = False
    of_input = False

    def __init__(self, message: str, details: Sequence[ErrorDetail] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.details = details


class InvalidRequestError(AnswerError):
    """The record is JSON with a valid `request_id`, but another field breaks the contract."""

    code = ErrorCode.INVALID_REQUEST


class InvalidInputError(AnswerError):
    """`input` does not match the `input_schema` of the chosen version."""

    code = ErrorCode.INVALID_INPUT


class UnknownModelError(AnswerError):
    """No model of that name is registered."""

    code = ErrorCode.UNKNOWN_MODEL


class NoActiveVersionError(AnswerError):
    """The model exists, but its route sends traffic to no version."""

    code = ErrorCode.NO_ACTIVE_VERSION


class StaleRouteError(AnswerError):
    """The registry cannot be read, and the version's `stale_policy` forbids answers by an old route."""

    code = ErrorCode.STALE_ROUTE


class DeadlineExceededError(AnswerError):
    """`deadline_ms` passed before a result was available, or so many requests waited that it certainly would."""

    code = ErrorCode.DEADLINE_EXCEEDED


class DeadlineOutOfReachError(DeadlineExceededError):
    """So many requests wait for the version that it cannot answer this one before its deadline."""


class OverloadedError(AnswerError):
    """As many requests wait for the version as its `max_waiting` or `max_waiting_bytes` allows: try again later."""

    code = ErrorCode.OVERLOADED


class AnswerAndDeadLetterError(AnswerError):
    """The request is answered with `error`, and its record becomes a dead letter."""

    dead_letter = True


class BackendUnavailableError(AnswerAndDeadLetterError):
    """The model server cannot be reached, or does not answer in time."""

    code = ErrorCode.BACKEND_UNAVAILABLE


class BackendTimeoutError(BackendUnavailableError):
    """The model server does not answer in time: it may be away, or the call had too many examples."""


class BackendFailedError(AnswerAndDeadLetterError):
    """The backend gave no valid predictions."""

    code = ErrorCode.BACKEND_ERROR


class BackendBrokenError(BackendFailedError):
    """The model server's answer breaks its own protocol: the fault is the server's, not the input's."""


class BackendTooLargeError(BackendFailedError):
    """The call needs more memory, or has more bytes, than the backend takes: it may have had too many examples."""


class NonFiniteResultError(BackendFailedError):
    """The model's result for one example has NaN or Infinity, which are not JSON: the fault is not the server's."""


class InvalidOutputError(AnswerAndDeadLetterError):
    """The model's output does not match the version's `output_schema`."""

    code = ErrorCode.INVALID_OUTPUT


class InternalError(AnswerAndDeadLetterError):
    """A fault in Headrace itself."""

    code = ErrorCode.INTERNAL


class RejectionCode(StrEnum):
    """Why the registry rejected a promotion event."""

    UNKNOWN_MODEL = "UNKNOWN_MODEL"
    """The model is not registered, and the event is not `register`."""
    UNKNOWN_VERSION = "UNKNOWN_VERSION"
    """The model has no version of that name."""
    VERSION_EXISTS = "VERSION_EXISTS"
    """`register` names a version that the model has already with another content."""
    ILLEGAL_TRANSITION = "ILLEGAL_TRANSITION"
    """The state of the model, or the status of the version, does not allow the action."""
    BAD_WEIGHT = "BAD_WEIGHT"
    """A weight is out of range, or the weights leave production nothing or do not add up to 100."""
    STALE_REVISION = "STALE_REVISION"
    """The model is not at the event's `expected_revision`."""
    NOT_LOADED = "NOT_LOADED"
    """Every live worker has tried to load a version that would get traffic and cannot, and the event has no `force`."""
    EVENT_CONFLICT = "EVENT_CONFLICT"
    """An event with the same `event_id` and another body was decided before."""
    INVALID_EVENT = "INVALID_EVENT"
    """The event does not match its schema, or its action lacks a field or does not take one."""


class PromotionRejectedError(HeadraceError):
    """The event was rejected and nothing changed; the message says what the operator can do."""

    def __init__(self, code: RejectionCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class UnavailableError(HeadraceError):
    """A service does not answer: try again later, or continue without it."""


class BrokerUnavailableError(UnavailableError):
    """Kafka does not answer."""


class CacheUnavailableError(UnavailableError):
    """Redis does not answer: predictions continue without the cache."""


class RegistryUnavailableError(UnavailableError):
    """PostgreSQL does not answer: workers continue with their last snapshot."""


class RegistryFaultError(RegistryUnavailableError):
    """PostgreSQL raised an error that Headrace does not expect. The job fails and is tried again, not the process."""


class ResponseTimeoutError(UnavailableError):
    """No response to a sent request arrived in time; it may still arrive."""

    def __init__(self, request_id: str, timeout_seconds: float) -> None:
        super().__init__(
            f"no response to {request_id} within {timeout_seconds:g} s; is a worker running (`headrace worker`)?"
        )
        self.request_id = request_id


class VersionOverloadedError(UnavailableError):
    """The request was answered with OVERLOADED: `response` has the version. Send it again later, with growing pauses."""

    def __init__(self, response: PredictResponse) -> None:
        message = "" if response.error is None else response.error.message
        super().__init__(f"{response.request_id} was refused with OVERLOADED: {message}")
        self.response = response


class DataRefusedError(HeadraceError):
    """PostgreSQL refuses a value, as it will each time: what was to be stored is unreadable data."""


class ArtifactError(HeadraceError):
    """A version's artifact cannot be fetched, verified or loaded.

    The worker keeps the model's older route. Without one, the version's requests get BACKEND_UNAVAILABLE.
    """


class LoadTimeoutError(ArtifactError):
    """A version was not loaded and warm within its limit of time."""


class LoadPostponedError(ArtifactError):
    """An earlier load of the version ended a process: it is tried again in `retry_seconds`."""

    def __init__(self, message: str, retry_seconds: float) -> None:
        super().__init__(message)
        self.retry_seconds = retry_seconds


class SetupError(HeadraceError):
    """The process cannot start as configured; the message says what to change."""
