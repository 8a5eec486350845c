"""workers/network/retry.py: what is sent again, when, and how often at most."""

import pytest

from workers.network.retry import RetryBudget, earned, is_retried, pause_seconds, read_retry_after, spent


@pytest.mark.parametrize("status", [502, 503, 504])
def test_what_nobody_worked_on_is_sent_again(status: int) -> None:
    """With or without `Retry-After`."""
    assert is_retried(status, None)


@pytest.mark.parametrize("status", [200, 301, 400, 404, 408, 413, 422, 500, 501, 505])
def test_what_somebody_worked_on_is_not(status: int) -> None:
    """A repetition would have the same result."""
    assert not is_retried(status, 1.0)


def test_shed_load_comes_back_only_when_it_is_told_when() -> None:
    """Without `Retry-After`, retries would add to the load."""
    assert is_retried(429, 2.0)
    assert not is_retried(429, None)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("0", 0.0), (" 7 ", 7.0), (None, None), ("", None), ("-1", None), ("1.5", None), ("soon", None)],
)
def test_retry_after_in_seconds(header: str | None, seconds: float | None) -> None:
    """Dates are ignored, since the server's clock may be wrong."""
    assert read_retry_after(header) == seconds


def test_the_budget_is_a_tenth_of_the_calls() -> None:
    """After the initial budget, ten calls earn a retry."""
    budget = RetryBudget()
    retries = 0
    for _ in range(1000):
        budget = earned(budget)
        left = spent(budget)
        if left is not None:
            budget, retries = left, retries + 1
    assert 100 <= retries <= 111
    assert spent(RetryBudget(0.9)) is None


def test_pauses_grow_have_jitter_and_heed_the_server() -> None:
    """Clients do not retry together, nor before `Retry-After`."""
    assert pause_seconds(1, 0.0) == 0
    assert pause_seconds(1, 1.0) < pause_seconds(2, 1.0) < 1
    assert 3.0 <= pause_seconds(1, 0.5, 3.0) < 4.0
