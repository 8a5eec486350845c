"""PURE. Parses promotion events, and rejects records that are not valid events."""

from datetime import datetime
from typing import Any

from pydantic import ValidationError

from schemas.errors import MalformedRecordError, PromotionRejectedError, RejectionCode
from schemas.events import JsonObject
from schemas.models import PromotionError, PromotionEvent, PromotionResult
from schemas.validation import one_line
from schemas.wire import read_object

# A longer text is no valid id, model name, action or actor; the result repeats only so much of it.
MAX_ECHO_CHARACTERS = 128
MAX_MESSAGE_CHARACTERS = 1000


def make_event(fields: JsonObject) -> PromotionEvent:
    """An event from its fields.

    Raises PromotionRejectedError (INVALID_EVENT), which names what is wrong.
    """
    try:
        return PromotionEvent.model_validate(fields)
    except ValidationError as error:
        raise PromotionRejectedError(RejectionCode.INVALID_EVENT, one_line(error, root="event")) from None


def read_event(value: bytes | None, max_bytes: int, now: datetime) -> PromotionEvent | PromotionResult:
    """The event of a record, or a result with status `rejected` if the record is not a valid event.

    The result repeats the event's id, model, action and actor as far as they can be read, otherwise "".
    """
    document: JsonObject = {}
    try:
        document = read_object(value, max_bytes)
        return make_event(document)
    except MalformedRecordError as error:
        message = str(error)
    except PromotionRejectedError as error:
        message = error.message
    return PromotionResult(
        event_id=_text(document.get("event_id")),
        model_name=_text(document.get("model_name")),
        action=_text(document.get("action")),
        status="rejected",
        revision=0,
        route=None,
        error=PromotionError(code=RejectionCode.INVALID_EVENT, message=message),
        applied_at=now,
        actor=_text(document.get("actor")),
    )


def bounded(result: PromotionResult) -> PromotionResult:
    """The result with its actor and its message cut to a bounded length.

    An event of the largest permitted size may consist of an actor only, and a message may quote most of it. A result
    that is too large for its topic would stop all later promotions.
    """
    error = result.error
    if error is not None and len(error.message) > MAX_MESSAGE_CHARACTERS:
        error = error.model_copy(update={"message": error.message[: MAX_MESSAGE_CHARACTERS - 1] + "…"})
    return result.model_copy(update={"actor": result.actor[:MAX_ECHO_CHARACTERS], "error": error})


def _text(value: Any) -> str:
    return value[:MAX_ECHO_CHARACTERS] if isinstance(value, str) else ""
