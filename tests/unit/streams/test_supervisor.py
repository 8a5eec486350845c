"""streams/supervisor.py: how often a worker has failed in a row."""

from streams.supervisor import STEADY_SECONDS, failures_in_a_row


def test_a_worker_that_ran_steadily_starts_a_new_series() -> None:
    """Its next failure counts as the first one."""
    assert failures_in_a_row(7, STEADY_SECONDS - 1) == 8
    assert failures_in_a_row(7, STEADY_SECONDS) == 1
