"""How long a worker that ended waits for its next start."""

from itertools import pairwise

from streams.supervisor import (
    FIRST_WAIT_SECONDS,
    LONGEST_WAIT_SECONDS,
    STEADY_SECONDS,
    failures_in_a_row,
    wait_before_restart,
)


def test_each_failure_in_a_row_waits_longer_up_to_a_bound() -> None:
    waits = [wait_before_restart(failures) for failures in range(1, 100)]
    assert waits[0] == FIRST_WAIT_SECONDS
    assert all(one < next_ or one == LONGEST_WAIT_SECONDS for one, next_ in pairwise(waits))
    assert waits[-1] == LONGEST_WAIT_SECONDS


def test_who_ran_steadily_begins_anew() -> None:
    assert failures_in_a_row(7, STEADY_SECONDS - 1) == 8
    assert failures_in_a_row(7, STEADY_SECONDS) == 1
