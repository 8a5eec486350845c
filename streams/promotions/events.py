"""PURE. Parses promotion events, and rejects records that are not valid events."""

from datetime import datetime
from typing import Any

from pydantic import ValidationError

from schemas.bounds import MAX_ID_CHARACTERS, printable
from schemas.errors import MalformedRecordError, PromotionRejectedError, RejectionCode
from schemas.events import JsonObject
from schemas.models import PromotionError, PromotionEvent, PromotionResult
from schemas.validation import one_line
from schemas.wire import read_object


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

    The result repeats the first 128 characters of the event's id, model, action and actor, without control characters;
    "" where they are no text.
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


def _text(value: Any) -> str:
    return printable(value[:MAX_ID_CHARACTERS], MAX_ID_CHARACTERS) if isinstance(value, str) else ""
