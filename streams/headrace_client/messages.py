"""PURE. What the client sends and receives: records as `docs/schemas/` of Headrace describes them.

It uses the standard library only, because the packages of an application decide which others there are.
"""

import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from .client_errors import HeadraceClientError, InvalidRequestError

JsonObject = dict[str, Any]

_CONTROLS = r"\x00-\x1f\x7f-\x9f"
_UNPRINTABLE = _CONTROLS + r"\u2028-\u202e\u2066-\u2069"
_MODEL_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
_REQUEST_ID = re.compile(f"[^{_CONTROLS}]{{1,128}}")
_IDENTIFIER = re.compile(f"[^{_UNPRINTABLE}]{{1,128}}")
_LABEL = re.compile(f"[^{_UNPRINTABLE}]{{0,128}}")
_REASON = re.compile(f"[^{_UNPRINTABLE}]{{0,1000}}")
_NAME_RULE: Final = "1 to 63 of a-z, 0-9, '.', '_' and '-', and begins with a letter or a digit"
_MAX_DEADLINE_MS = 600_000
_BUCKETS = 10_000


@dataclass(frozen=True, slots=True)
class Message:
    """A record to send; the answer to it carries `message_id`."""

    message_id: str
    key: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class ErrorDetail:
    """One wrong value: `path` is its JSON pointer (RFC 6901)."""

    path: str
    message: str


@dataclass(frozen=True, slots=True)
class ResponseError:
    """Why a request has no predictions. `docs/reference/errors.md` says whose fault a code is, and whether to retry."""

    code: str
    message: str
    details: tuple[ErrorDetail, ...] = ()


@dataclass(frozen=True, slots=True)
class Response:
    """The response to one request: it has `predictions`, or `error`.

    `latency_ms` is the time in the worker. `revision` numbers the changes of the model's route. `stale` says that the
    worker could not read the registry for a while, `fallback` that production answered for the user's version.
    """

    request_id: str
    model_name: str
    model_version: str
    user_id: str
    predictions: Any
    error: ResponseError | None
    latency_ms: float
    cached: bool
    revision: int
    stale: bool
    fallback: bool


@dataclass(frozen=True, slots=True)
class PromotionResult:
    """What became of a promotion. `weights` has the share of users of each version, in percent.

    A worker that has read the registry at `epoch` serves the result.
    """

    event_id: str
    model_name: str
    action: str
    status: str
    revision: int
    epoch: int
    weights: Mapping[str, float]
    error: ResponseError | None


def prediction_request(
    model_name: str,
    *,
    user_id: str,
    input: JsonObject,  # noqa: A002  # the contract's word
    deadline_ms: int | None,
) -> Message:
    """A request with a new id; raises InvalidRequestError."""
    if not isinstance(input, dict):
        raise InvalidRequestError(f"input is a JSON object, not {_kind(input)}")
    if deadline_ms is not None and (type(deadline_ms) is not int or not 1 <= deadline_ms <= _MAX_DEADLINE_MS):
        raise InvalidRequestError(f"deadline_ms is a whole number from 1 to {_MAX_DEADLINE_MS}")
    request_id = str(uuid.uuid4())
    document: JsonObject = {
        "request_id": request_id,
        "model_name": _model_name(model_name),
        "user_id": _user_id(user_id),
        "input": input,
    }
    if deadline_ms is not None:
        document["deadline_ms"] = deadline_ms
    return _message(request_id, user_id, document)


def promotion_event(
    model_name: str,
    action: str,
    *,
    version: str | None = None,
    weight: float | None = None,
    reason: str = "",
    actor: str = "",
    expected_revision: int | None = None,
) -> Message:
    """An event with a new id; raises InvalidRequestError."""
    event_id = str(uuid.uuid4())
    document = {
        "event_id": event_id,
        "model_name": _model_name(model_name),
        "action": action,
        "version": None if version is None else _text("version", version, _VERSION, "a version's name"),
        "weight": weight,
        "reason": _text("reason", reason, _REASON, "at most 1,000 characters, no control characters") or None,
        "actor": _text("actor", actor, _LABEL, "at most 128 characters, no control characters") or None,
        "expected_revision": expected_revision,
    }
    present = {name: value for name, value in document.items() if value is not None}
    return _message(event_id, model_name, present)


def outcome_event(
    model_name: str,
    *,
    user_id: str,
    name: str,
    value: float,
    request_id: str | None,
    outcome_id: str | None,
    occurred_at: datetime | None,
) -> Message:
    """What a user did, with a new id if it has none; raises InvalidRequestError."""
    occurred_at = datetime.now(UTC) if occurred_at is None else occurred_at
    if occurred_at.tzinfo is None:
        raise InvalidRequestError("occurred_at needs a time zone: datetime.now(timezone.utc) has one")
    identifier = "1 to 128 characters, no control characters"
    outcome_id = str(uuid.uuid4()) if outcome_id is None else outcome_id
    document: JsonObject = {
        "outcome_id": _text("outcome_id", outcome_id, _IDENTIFIER, identifier),
        "model_name": _model_name(model_name),
        "user_id": _user_id(user_id),
        "name": _text("name", name, _IDENTIFIER, identifier),
        "value": value,
        "occurred_at": occurred_at.astimezone(UTC).isoformat(timespec="milliseconds")[:-6] + "Z",
    }
    if request_id is not None:
        document["request_id"] = _text("request_id", request_id, _REQUEST_ID, identifier)
    return _message(outcome_id, user_id, document)


def read_object(value: bytes | None) -> JsonObject | None:
    """The JSON object of a record; None for everything else."""
    try:
        document = json.loads(value or b"")
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def read_response(document: JsonObject, _: bytes) -> Response:
    """Raises HeadraceClientError for a response that breaks the contract."""
    try:
        return Response(
            request_id=document["request_id"],
            model_name=document["model_name"],
            model_version=document["model_version"],
            user_id=document["user_id"],
            predictions=document.get("predictions"),
            error=_error(document.get("error")),
            latency_ms=float(document["latency_ms"]),
            cached=bool(document["cached"]),
            revision=int(document["revision"]),
            stale=bool(document["stale"]),
            fallback=bool(document.get("fallback", False)),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise HeadraceClientError(
            f"the response to {document.get('request_id')} breaks the contract: {error!r}"
        ) from None


def read_result(document: JsonObject, _: bytes) -> PromotionResult:
    """Raises HeadraceClientError for a result that breaks the contract."""
    try:
        route = document["route"]
        buckets: dict[str, int] = {}
        for part in [] if route is None else route["ranges"]:
            buckets[part["version"]] = buckets.get(part["version"], 0) + part["end"] - part["start"]
        return PromotionResult(
            event_id=document["event_id"],
            model_name=document["model_name"],
            action=document["action"],
            status=document["status"],
            revision=int(document["revision"]),
            epoch=int(document.get("epoch", 0)),
            weights={version: count * 100 / _BUCKETS for version, count in buckets.items()},
            error=_error(document["error"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise HeadraceClientError(
            f"the result of {document.get('event_id')} breaks the contract: {error!r}"
        ) from None


def _error(document: Any) -> ResponseError | None:
    if document is None:
        return None
    details = tuple(ErrorDetail(each["path"], each["message"]) for each in document.get("details", ()))
    return ResponseError(document["code"], document["message"], details)


def _model_name(value: object) -> str:
    return _text("model_name", value, _MODEL_NAME, _NAME_RULE)


def _user_id(value: object) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise InvalidRequestError(f'user_id is text, not a number: send "{value}"')
    if not isinstance(value, str) or not 1 <= len(value) <= 256:
        raise InvalidRequestError(f"user_id is text of 1 to 256 characters, not {_kind(value)}")
    return value


def _text(name: str, value: object, pattern: re.Pattern[str], rule: str) -> str:
    if not isinstance(value, str) or pattern.fullmatch(value) is None:
        raise InvalidRequestError(f"{name} is not valid: {rule}")
    return value


def _message(message_id: str, key: str, document: JsonObject) -> Message:
    try:
        value = json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return Message(message_id, key.encode(), value.encode())
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequestError(f"it cannot be sent as JSON: {error}") from None


def _kind(value: object) -> str:
    return f"text of {len(value)} characters" if isinstance(value, str) else type(value).__name__
