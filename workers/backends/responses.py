"""PURE interpretation of a model server's responses, for every protocol.

The content type is ignored, because servers label JSON as text.
"""

import json
from collections.abc import Collection
from contextlib import suppress
from typing import Any

import orjson

from schemas.errors import (
    ArtifactError,
    BackendBrokenError,
    BackendFailedError,
    BackendTimeoutError,
    BackendTooLargeError,
    BackendUnavailableError,
    NonFiniteResultError,
    UnavailableError,
)
from schemas.events import JsonObject
from workers.network.retry import RETRIED_STATUSES, TOO_MANY_REQUESTS

OK = 200
_GATEWAY_TIMEOUT = 504
_CONTENT_TOO_LARGE = 413
# A healthy server refuses the request for its content.
_REFUSED = frozenset({400, 415, 422})
# The model or the access to it is missing: other requests fail too.
_NOT_THERE = frozenset({401, 403, 404, 405, 410})
# TorchServe answers an expired token with 400 and this message.
_BAD_REQUEST, _TOKEN_REFUSED = 400, b"Token Authorization failed"
# The server does not describe models.
_NO_SUCH_QUESTION = frozenset({405, 501})
_SERVER_FAULTS_FROM = 500
_EXCERPT_CHARACTERS = 200
# Longer bodies are not error messages, and are not parsed.
_MAX_ERROR_BYTES = 64 * 1024


def error_of_response(
    status: int, body: bytes, faults: Collection[int] = ()
) -> BackendUnavailableError | BackendFailedError:
    """The error of a request for predictions that was answered with another status than 200.

    `faults` are statuses by which this server reports a fault of the model.
    """
    message = describe_response(status, body)
    if status in faults:
        return BackendBrokenError(message)
    if status == _GATEWAY_TIMEOUT:
        return BackendTimeoutError(message)
    if status == _CONTENT_TOO_LARGE:
        return BackendTooLargeError(message)
    token_refused = status == _BAD_REQUEST and _TOKEN_REFUSED in body
    if status in _NOT_THERE or token_refused or is_busy(status):
        return BackendUnavailableError(message)
    if 300 <= status < 400:
        return BackendUnavailableError(f"{message}; redirects are not followed")
    return BackendFailedError(message) if status in _REFUSED else BackendBrokenError(message)


def raise_unless_found(url: str, status: int, body: bytes) -> None:
    """Raise when the response to a question about the model at `url` shows that the server cannot serve it.

    Statuses that say that the server has no such question pass. Raises UnavailableError for a fault of the server,
    which may pass, and ArtifactError for the others: the model, or the access to it, is missing.
    """
    if status == OK or status in _NO_SUCH_QUESTION:
        return
    reason = describe_response(status, body)
    if status >= _SERVER_FAULTS_FROM:
        raise UnavailableError(f"{url} cannot be served: {reason}")
    raise ArtifactError(f"{url} is not a model of its server: {reason}")


def is_busy(status: int) -> bool:
    """True when the server did not process the request and may do so later."""
    return status in RETRIED_STATUSES or status == TOO_MANY_REQUESTS


def describe_response(status: int, body: bytes) -> str:
    """A sentence with the status and an excerpt of the body."""
    return f"the model server answered {status}: {excerpt(body)}"


def excerpt(body: bytes) -> str:
    """The `error`, `detail` or `message` of a JSON body, else the beginning of the body; printable and short."""
    text: Any = body[: 4 * _EXCERPT_CHARACTERS].decode(errors="replace")
    try:
        document = orjson.loads(body) if len(body) <= _MAX_ERROR_BYTES else None
    except orjson.JSONDecodeError:
        document = None
    if isinstance(document, dict):
        text = document.get("error") or document.get("detail") or document.get("message") or text
    return "".join(filter(str.isprintable, str(text)))[:_EXCERPT_CHARACTERS]


def read_value(body: bytes, *, allow_non_finite: bool = False) -> Any:
    """Parse a body as JSON; raises BackendBrokenError for other content.

    NaN and Infinity are other content, unless they are allowed: Python's servers write them. Values of such a
    body may then be no JSON for further reasons, which `fail_non_json` finds.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        if allow_non_finite and _may_be_non_finite(body):
            with suppress(ValueError, RecursionError):
                return json.loads(body)
        raise BackendBrokenError(f"the model server answered no JSON: {excerpt(body)}") from None


def read_object(body: bytes, *, allow_non_finite: bool = False) -> JsonObject:
    """Parse a body as a JSON object, like `read_value`; raises BackendBrokenError for other content."""
    document = read_value(body, allow_non_finite=allow_non_finite)
    if not isinstance(document, dict):
        raise BackendBrokenError(f"the model server answered no JSON object: {excerpt(body)}")
    return document


def fail_non_json(predictions: list[Any], body: bytes) -> list[Any]:
    """The predictions of a body, with a NonFiniteResultError in place of each that is not JSON."""
    if not _may_be_non_finite(body):
        return predictions
    return [
        prediction
        if _is_json(prediction)
        else NonFiniteResultError("the prediction has NaN or Infinity, which JSON cannot represent")
        for prediction in predictions
    ]


def _may_be_non_finite(body: bytes) -> bool:
    return b"NaN" in body or b"Infinity" in body


def _is_json(value: Any) -> bool:
    try:
        # NaN and Infinity become null.
        return bool(orjson.loads(orjson.dumps(value)) == value)
    except (orjson.JSONEncodeError, orjson.JSONDecodeError):
        return False
