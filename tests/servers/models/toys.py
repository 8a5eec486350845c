"""What every server of the tests serves, in plain Python: each has its own way to call it.

`doubler`: `x` → `y` = 2x; an older version, where a server has several, doubled twice. FAULT makes it
raise, SLOW makes it take SLOW_SECONDS, and a line in the file SLOW_CALLS_FILE says that it began.
`recommender`: `user_idx` → ten `items` and their `scores`, the best first.
"""

import os
from collections.abc import Sequence
from pathlib import Path

FAULT = -999
SLOW = -888
SLOW_SECONDS = 3.0
SLOW_CALLS_FILE = "SLOW_CALLS_FILE"
_ITEMS = 1682
_TOP = 10


class FaultError(Exception):
    """What a model raises."""


def double(numbers: Sequence[int], times: int = 1) -> list[int]:
    if FAULT in numbers:
        raise FaultError(f"{FAULT} is out of range")
    if any(type(number) is not int for number in numbers):
        raise FaultError("not all are integers")
    return [number * 2**times for number in numbers]


def seconds_to_take(numbers: Sequence[int]) -> float:
    """How long the answer has to take; a slow one is noted for those who wait for it to begin."""
    if SLOW not in numbers:
        return 0.0
    with Path(os.environ[SLOW_CALLS_FILE]).open("a") as file:
        file.write("began\n")
    return SLOW_SECONDS


def recommend(users: Sequence[int]) -> tuple[list[list[int]], list[list[float]]]:
    """Items and scores for each user, by a rule that anybody can compute."""
    items = [[(user * 31 + rank * 7) % _ITEMS for rank in range(_TOP)] for user in users]
    scores = [[1 / (1 + rank + user % 8) for rank in range(_TOP)] for user in users]
    return items, scores
