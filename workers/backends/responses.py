"""PURE: what a model server's answer means, whichever protocol it speaks.

Answers are read by their content, whatever their content type says: servers label JSON as text.
"""

from collections.abc import Collection
from typing import Any

import orjson

from schemas.errors import BackendBrokenError, BackendFailedError, BackendUnavailableError
from schemas.events import JsonObject
from workers.network.retry import RETRIED_STATUSES, TOO_MANY_REQUESTS

OK = 200
# The request itself is refused, by a server that is well.
_REFUSED = frozenset({400, 413, 415, 422})
# The model, or our way to it, is not there: another request would fare no better.
_NOT_THERE = frozenset({401, 403, 404, 405, 410})
_EXCERPT_CHARACTERS = 200
# What is longer is no message for people, and not worth reading as JSON.
_MAX_ERROR_BYTES = 64 * 1024


def error_of_response(
    status: int, body: bytes, faults: Collection[int] = ()
) -> BackendUnavailableError | BackendFailedError:
    """What an answer other than 200 means for a request for predictions.

    `faults` are statuses that are a fault of the model at this server, whatever they are elsewhere.
    """
    said = describe_response(status, body)
    if status in faults:
        return BackendBrokenError(said)
    if status in _NOT_THERE or is_busy(status):
        return BackendUnavailableError(said)
    if 300 <= status < 400:
        return BackendUnavailableError(f"{said}; redirects are not followed")
    return BackendFailedError(said) if status in _REFUSED else BackendBrokenError(said)


def is_busy(status: int) -> bool:
    """Whether nobody worked on the request, and somebody might later."""
    return status in RETRIED_STATUSES or status == TOO_MANY_REQUESTS


def describe_response(status: int, body: bytes) -> str:
    return f"the model server answered {status}: {excerpt(body)}"


def excerpt(body: bytes) -> str:
    """What a server says in a few words: its `error`, `detail` or `message`, else how its answer begins."""
    text: Any = body[: 4 * _EXCERPT_CHARACTERS].decode(errors="replace")
    try:
        document = orjson.loads(body) if len(body) <= _MAX_ERROR_BYTES else None
    except orjson.JSONDecodeError:
        document = None
    if isinstance(document, dict):
        text = document.get("error") or document.get("detail") or document.get("message") or text
    return "".join(filter(str.isprintable, str(text)))[:_EXCERPT_CHARACTERS]


def read_value(body: bytes) -> Any:
    """An answer that must be JSON; raises BackendBrokenError when it is not, as with NaN or Infinity in it."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        raise BackendBrokenError(f"the model server answered no JSON: {excerpt(body)}") from None


def read_object(body: bytes) -> JsonObject:
    """An answer that must be a JSON object; raises BackendBrokenError when it is not."""
    document = read_value(body)
    if not isinstance(document, dict):
        raise BackendBrokenError(f"the model server answered no JSON object: {excerpt(body)}")
    return document
