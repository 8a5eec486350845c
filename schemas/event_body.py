"""PURE. The one form of a promotion event: what is sent, and what says whether two are the same."""

from schemas.errors import PromotionRejectedError, RejectionCode
from schemas.models import PromotionEvent
from schemas.wire import canonical


def event_body(event: PromotionEvent) -> bytes:
    """An event as canonical JSON; raises PromotionRejectedError when it has no form in JSON.

    Without defaults, so that a field which a later release adds changes nothing about older events.
    """
    try:
        return canonical(event.model_dump(mode="json", exclude_defaults=True))
    except ValueError as error:
        raise PromotionRejectedError(
            RejectionCode.INVALID_EVENT, f"the event has no form in JSON ({error}); send it without that"
        ) from None
