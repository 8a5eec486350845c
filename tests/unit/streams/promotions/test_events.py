"""A promotion event keeps its weights exact from JSON to JSON."""

from decimal import Decimal

import orjson
import pytest
from pydantic import ValidationError

from schemas.models import PromotionEvent


def _canary(weight: object) -> PromotionEvent:
    return PromotionEvent.model_validate(
        {"event_id": "e-1", "model_name": "m", "action": "canary", "version": "v2", "weight": weight}
    )


@pytest.mark.parametrize(
    ("number", "percent"), [("5", "5"), ("5.1", "5.1"), ("0.07", "0.07"), ("99.99", "99.99")]
)
def test_a_weight_is_read_exactly_and_written_as_a_number(number: str, percent: str) -> None:
    """5.1 is 510 buckets: the decimal text of the JSON number counts, in both directions."""
    event = _canary(orjson.loads(number))
    assert event.weight == Decimal(percent)
    written = orjson.loads(event.model_dump_json())["weight"]
    assert written == float(number)
    assert _canary(written) == event


@pytest.mark.parametrize("weight", ["5", True, float("nan"), float("inf"), [5], {}])
def test_what_is_no_number_is_no_weight(weight: object) -> None:
    """Text that looks like a number is a mistake of its producer, not a weight."""
    with pytest.raises(ValidationError):
        _canary(weight)
