# mypy: ignore-errors
# It runs in an environment of its own, with libraries that are not in this one.
"""The models as TorchServe's worker calls them: each function gets a batch and answers one value for each.

A batch is what the server has collected from requests of one example each.
"""

import json
import time
from collections.abc import Sequence
from typing import Any

from toys import double, recommend, seconds_to_take


def doubler(data: Sequence[dict[str, Any]] | None, context: Any) -> list[int]:
    return _doubled(data, times=1)


def doubler_1(data: Sequence[dict[str, Any]] | None, context: Any) -> list[int]:
    return _doubled(data, times=2)


def recommender(data: Sequence[dict[str, Any]] | None, context: Any) -> list[dict[str, Any]]:
    items, scores = recommend(_values(data, "user_idx"))
    return [{"items": each, "scores": theirs} for each, theirs in zip(items, scores, strict=True)]


def _doubled(data: Sequence[dict[str, Any]] | None, times: int) -> list[int]:
    numbers = _values(data, "x")
    time.sleep(seconds_to_take(numbers))
    return double(numbers, times)


def _values(data: Sequence[dict[str, Any]] | None, name: str) -> list[int]:
    # The worker's first call, when it starts, has no data.
    return [_body(row)[name] for row in data or ()]


def _body(row: dict[str, Any]) -> Any:
    body = row.get("body", row.get("data"))
    return json.loads(body) if isinstance(body, bytes | bytearray) else body
