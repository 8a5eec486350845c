"""workers/calls/breaker.py: who may call, and when."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.calls.breaker import CLOSED, Breaker, BreakerConfig, Phase, admit, failed, succeeded

CONFIG = BreakerConfig(failures=3, open_seconds=10.0)


def opened(now: float) -> Breaker:
    breaker = CLOSED
    for _ in range(CONFIG.failures):
        breaker = failed(breaker, now, CONFIG)
    return breaker


def test_opens_after_failures_in_a_row() -> None:
    """A success in between starts the count anew."""
    breaker = failed(failed(CLOSED, 0, CONFIG), 0, CONFIG)
    assert breaker.phase is Phase.CLOSED
    assert failed(breaker, 0, CONFIG).phase is Phase.OPEN
    assert failed(succeeded(breaker), 0, CONFIG).phase is Phase.CLOSED


def test_open_admits_one_probe_after_its_time() -> None:
    """Nobody before `open_seconds`, then exactly one, then nobody until it reports."""
    breaker = opened(now=100)
    assert admit(breaker, 109.9, CONFIG) == (breaker, False)
    breaker, admitted = admit(breaker, 110, CONFIG)
    assert (admitted, breaker.phase) == (True, Phase.HALF_OPEN)
    assert admit(breaker, 110, CONFIG)[1] is False


def test_the_probe_decides() -> None:
    """An answer closes it; one failure opens it again for the full time."""
    probing, _ = admit(opened(now=0), 10, CONFIG)
    assert succeeded(probing) == CLOSED
    again = failed(probing, 12, CONFIG)
    assert (again.phase, again.retry_at) == (Phase.OPEN, 22)


def test_late_reports_change_nothing_while_open() -> None:
    """Calls from before it opened neither close it nor prolong it."""
    breaker = opened(now=0)
    assert succeeded(breaker) == breaker
    assert failed(breaker, 9, CONFIG) == breaker


def test_a_lost_probe_is_replaced() -> None:
    """If the probe never reports, another goes after `open_seconds`."""
    probing, _ = admit(opened(now=0), 10, CONFIG)
    assert admit(probing, 19.9, CONFIG)[1] is False
    assert admit(probing, 20, CONFIG)[1] is True


@pytest.mark.parametrize("failures", [1, 2, 5])
@given(st.lists(st.tuples(st.sampled_from(["call", "good", "bad"]), st.floats(0, 3)), max_size=60))
def test_admissions_are_sparse_while_not_closed(failures: int, steps: list[tuple[str, float]]) -> None:
    """Whatever happens, two calls admitted without a close between are `open_seconds` apart."""
    config = BreakerConfig(failures=failures, open_seconds=2.0)
    breaker, now, last_probe = CLOSED, 0.0, float("-inf")
    for step, seconds in steps:
        now += seconds
        if step == "good":
            breaker = succeeded(breaker)
        elif step == "bad":
            breaker = failed(breaker, now, config)
        else:
            breaker, admitted = admit(breaker, now, config)
            if admitted and breaker.phase is Phase.HALF_OPEN:
                assert now >= last_probe + config.open_seconds
                last_probe = now
        if breaker.phase is Phase.CLOSED:
            last_probe = float("-inf")
            assert breaker.failures_in_a_row < failures
