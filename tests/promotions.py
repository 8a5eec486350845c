"""Promotion events for tests, as an operator would write them."""

import uuid
from typing import Any

from schemas.models import PromotionEvent


def spec(version: str, **fields: Any) -> dict[str, Any]:
    """`model` of an event `register`."""
    return {
        "version": version,
        "framework": "open-inference",
        "endpoint": "http://127.0.0.1:9",
        "input_schema": {"type": "object"},
        "output_schema": {},
        **fields,
    }


def event(action: str, model_name: str = "m", **fields: Any) -> PromotionEvent:
    """An event with an id of its own."""
    document = {"event_id": str(uuid.uuid4()), "model_name": model_name, "action": action, "actor": "op"}
    return PromotionEvent.model_validate(document | fields)
