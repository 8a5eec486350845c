"""schemas/wording.py: singular and plural."""

import pytest

from schemas.wording import listed, number_of, times


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (number_of(0, "worker"), "0 workers"),
        (number_of(1, "worker"), "1 worker"),
        (number_of(1000, "worker"), "1,000 workers"),
        (number_of(1, "delta is", "deltas are"), "1 delta is"),
        (number_of(2, "delta is", "deltas are"), "2 deltas are"),
        (times(0), "0 times"),
        (times(1), "once"),
        (times(2), "2 times"),
        (listed([]), ""),
        (listed(["a"]), "a"),
        (listed(["a", "b"]), "a and b"),
        (listed(["a", "b", "c"]), "a, b and c"),
    ],
)
def test_words(text: str, expected: str) -> None:
    assert text == expected
