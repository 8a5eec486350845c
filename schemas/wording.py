"""PURE. Numbers and lists in messages for people: singular and plural."""

from collections.abc import Sequence


def number_of(count: int, one: str, many: str = "") -> str:
    """`1 worker`, `2 workers`, `1,000 workers`; `many` is `one` with an s unless it is given."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def times(count: int) -> str:
    """`once`, `2 times`."""
    return "once" if count == 1 else f"{count:,} times"


def listed(words: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`; "" for no words."""
    *before, last = words or [""]
    return f"{', '.join(before)} and {last}" if before else last
