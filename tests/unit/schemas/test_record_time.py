"""schemas/record_time.py: timestamps in other units, of wrong clocks, and none."""

import pytest

from schemas.record_time import describe_age, is_in_milliseconds, measurable_ms

NOW = 1_795_000_000_000


@pytest.mark.parametrize(
    ("timestamp", "told"),
    [
        (NOW // 1000, "looks like seconds"),
        (NOW * 1000, "looks like microseconds"),
        (NOW * 1_000_000, "looks like nanoseconds"),
        (-1, "has no Kafka timestamp"),
        (NOW - 500, "is 0.5 s old by its Kafka timestamp"),
        (
            NOW - 3 * 3_600_000,
            "is 3 h old by its Kafka timestamp; if it was sent just now, its sender's clock is wrong",
        ),
        (NOW - 10 * 86_400_000, "is 10 d old"),
    ],
)
def test_an_age_says_what_may_be_wrong(timestamp: int, told: str) -> None:
    assert told in describe_age(timestamp, NOW)


def test_a_record_of_just_now_blames_no_clock() -> None:
    assert "clock" not in describe_age(NOW - 59_000, NOW)


@pytest.mark.parametrize(
    ("timestamp", "measurable"),
    [
        (NOW, True),
        (NOW + 59_000, True),
        (NOW + 61_000, False),
        (NOW - 86_400_000, True),
        (NOW - 86_400_001, False),
        (NOW // 1000, False),
        (-1, False),
    ],
)
def test_what_is_not_of_the_last_day_is_not_measured(timestamp: int, *, measurable: bool) -> None:
    earliest_ms, latest_ms = measurable_ms(NOW)
    assert (earliest_ms <= timestamp <= latest_ms) is measurable


def test_seconds_are_not_milliseconds() -> None:
    assert is_in_milliseconds(NOW)
    assert not is_in_milliseconds(NOW // 1000)
    assert not is_in_milliseconds(-1)
