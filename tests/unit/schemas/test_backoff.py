"""Pauses between tries."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.backoff import backoff_seconds


def test_a_pause_doubles_until_it_is_the_longest_one() -> None:
    """It begins with `first_seconds` after the first failure."""
    pauses = [backoff_seconds(tries, first_seconds=0.5, longest_seconds=3.0) for tries in range(1, 6)]
    assert pauses == [0.5, 1.0, 2.0, 3.0, 3.0]


def test_a_fixed_pause_is_one_whose_longest_is_its_first() -> None:
    assert [backoff_seconds(tries, first_seconds=1.0, longest_seconds=1.0) for tries in (1, 2, 9)] == [
        1.0
    ] * 3


@given(tries=st.integers(1, 10**6), chance=st.floats(0, 1))
def test_chance_scales_a_pause(tries: int, chance: float) -> None:
    """Also after more failures than a float has exponents."""
    whole = backoff_seconds(tries, first_seconds=0.1, longest_seconds=30.0)
    assert backoff_seconds(tries, first_seconds=0.1, longest_seconds=30.0, chance=chance) == chance * whole
    assert 0.1 <= whole <= 30.0


def test_before_the_first_failure_there_is_no_pause() -> None:
    with pytest.raises(ValueError, match="from 1, not 0"):
        backoff_seconds(0, first_seconds=1.0, longest_seconds=1.0)
