"""PURE. Promotion events as they arrive, and the answer to what cannot be read as one."""

from datetime import datetime
from typing import Any

from pydantic import ValidationError

from schemas.errors import MalformedRecordError, PromotionRejectedError, RejectionCode
from schemas.events import JsonObject
from schemas.models import PromotionError, PromotionEvent, PromotionResult
from schemas.validation import one_line
from schemas.wire import read_object

# An id that is too long to be one is not repeated in full either.
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
    """The event that a record holds, or the refusal of what is none.

    A refusal has what can be read of the event's id, model, action and actor, else "".
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
    """The result as it fits a topic, and a log, whatever the event holds.

    An event of the largest size may be all actor, and a message may quote most of it; a result that its
    topic refuses would stop the promotions for good.
    """
    error = result.error
    if error is not None and len(error.message) > MAX_MESSAGE_CHARACTERS:
        error = error.model_copy(update={"message": error.message[: MAX_MESSAGE_CHARACTERS - 1] + "…"})
    return result.model_copy(update={"actor": result.actor[:MAX_ECHO_CHARACTERS], "error": error})


def _text(value: Any) -> str:
    return value[:MAX_ECHO_CHARACTERS] if isinstance(value, str) else ""
