"""workers/calls/concurrency.py on simulated servers: the limit settles near each server's parallelism."""

import heapq
import random

import pytest

from workers.calls.concurrency import RENEWAL_SECONDS, Concurrency, capped, on_failure, on_success

MAX_CALLS = 32


def limits(parallel: int, service_seconds: float, *, calls: int = 3000, noise: float = 0.2) -> list[int]:
    """The limit after each answer of a saturated server that executes `parallel` calls at once.

    Further calls wait at the server, first in, first out.
    """
    chance = random.Random(7)
    state = Concurrency()
    free = [0.0] * parallel
    in_flight: list[tuple[float, float]] = []
    now = 0.0
    seen = []
    for _ in range(calls):
        while len(in_flight) < state.calls:
            begins = max(now, heapq.heappop(free))
            ends = begins + service_seconds * chance.uniform(1 - noise, 1 + noise)
            heapq.heappush(free, ends)
            heapq.heappush(in_flight, (ends, now))
        now, sent = heapq.heappop(in_flight)
        state = on_success(
            state,
            batch_size=8,
            rtt_seconds=now - sent,
            in_flight=len(in_flight) + 1,
            max_calls=MAX_CALLS,
            timeout_seconds=2,
            now=0.0,
        )
        seen.append(state.calls)
    return seen


def test_a_serial_server_gets_few_calls() -> None:
    """Enough calls that it never idles, and few enough that batches are full."""
    settled = limits(parallel=1, service_seconds=0.01)[500:]
    assert 2 <= min(settled) <= max(settled) <= 8


@pytest.mark.parametrize("parallel", [4, 8, 16])
def test_a_parallel_server_gets_its_parallelism(parallel: int) -> None:
    """And a few calls more, so that the next is there when one ends."""
    settled = limits(parallel, service_seconds=0.01)[1500:]
    assert parallel <= min(settled)
    assert max(settled) <= 2 * parallel


def test_a_server_without_queueing_gets_the_maximum() -> None:
    """Its latency never grows."""
    assert limits(parallel=1000, service_seconds=0.01)[-1] == MAX_CALLS


def test_a_server_that_batches_calls_gets_the_maximum() -> None:
    """Its latency grows with the number of calls, and only failures lower the limit."""
    state = Concurrency()
    for _ in range(1000):
        took = 0.01 * (1 + state.calls / 8)
        state = on_success(
            state,
            batch_size=1,
            rtt_seconds=took,
            in_flight=state.calls,
            max_calls=MAX_CALLS,
            timeout_seconds=2,
            now=0.0,
            single=True,
        )
    assert state.calls == MAX_CALLS
    assert on_failure(state, started=0.0, now=0.0).calls == MAX_CALLS // 2


def test_an_idle_server_keeps_its_limit() -> None:
    """The limit grows only while it is reached."""
    state = Concurrency()
    for _ in range(100):
        state = on_success(
            state,
            batch_size=1,
            rtt_seconds=0.01,
            in_flight=1,
            max_calls=MAX_CALLS,
            timeout_seconds=2,
            now=0.0,
        )
    assert state.calls == Concurrency().calls


def test_an_unknown_server_gets_its_calls_soon() -> None:
    """The limit doubles each round trip until calls wait."""
    state = Concurrency()
    for _ in range(MAX_CALLS - state.calls):
        state = on_success(
            state,
            batch_size=1,
            rtt_seconds=0.01,
            in_flight=state.calls,
            max_calls=MAX_CALLS,
            timeout_seconds=2,
            now=0.0,
        )
    assert state.calls == MAX_CALLS


def test_waiting_calls_stay_far_from_their_timeout() -> None:
    """A serial server that needs 0.4 s for a call: five calls at once would take the whole timeout."""
    state = Concurrency()
    for _ in range(300):
        state = on_success(
            state,
            batch_size=4,
            rtt_seconds=0.4 * state.calls,
            in_flight=state.calls,
            max_calls=MAX_CALLS,
            timeout_seconds=2,
            now=0.0,
        )
        assert state.calls <= 3


def test_failures_halve_the_limit_down_to_one() -> None:
    """One call remains, which finds out when the server is back."""
    state = Concurrency(limit=20.0)
    state = on_failure(state, started=0.0, now=0.0)
    assert state.calls == 10
    for _ in range(10):
        state = on_failure(state, started=0.0, now=0.0)
    assert state.calls == 1


def test_of_calls_that_fail_together_the_first_says_how_many_are_too_many() -> None:
    """Each of them halves the limit."""
    state = Concurrency(limit=20.0)
    for started in (1.0, 1.5, 2.9):
        state = on_failure(state, started=started, now=3.0)
    assert (state.calls, state.failed_calls) == (2, 20)
    assert on_failure(state, started=3.0, now=5.0).failed_calls == 2


def test_a_number_of_long_calls_that_failed_is_not_tried_again_for_a_while() -> None:
    """Short ones grow again at once."""
    failed = on_failure(Concurrency(limit=4.0), started=0.0, now=2.0)
    for rtt_seconds, now, calls in (
        (1.5, 10.0, 3),
        (0.1, 10.0, MAX_CALLS),
        (1.5, 2.0 + RENEWAL_SECONDS, MAX_CALLS),
    ):
        state = failed
        for _ in range(2000):
            state = on_success(
                state,
                batch_size=1,
                rtt_seconds=rtt_seconds,
                in_flight=state.calls,
                max_calls=MAX_CALLS,
                timeout_seconds=2,
                now=now,
            )
        assert state.calls == calls


def test_a_version_may_allow_fewer() -> None:
    """Its maximum holds from the first call on."""
    assert capped(Concurrency(), 1).calls == 1
