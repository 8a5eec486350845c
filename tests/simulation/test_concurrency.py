"""workers/calls/concurrency.py against simulated servers: it finds how many calls each works on at once."""

import heapq
import random

import pytest

from workers.calls.concurrency import Concurrency, answered, failed, limited

MAX_CALLS = 32


def levels(parallel: int, service_seconds: float, *, calls: int = 3000, noise: float = 0.2) -> list[int]:
    """The number of calls after each answer of a saturated server that works on `parallel` at once.

    What is more waits at the server in the order of its arrival.
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
        state = answered(
            state, batch_size=8, seconds=now - sent, in_flight=len(in_flight) + 1, max_calls=MAX_CALLS
        )
        seen.append(state.calls)
    return seen


def test_a_server_that_works_one_by_one_gets_few_calls() -> None:
    """Enough that it never waits, and so few that batches are full."""
    settled = levels(parallel=1, service_seconds=0.01)[500:]
    assert 2 <= min(settled) <= max(settled) <= 8


@pytest.mark.parametrize("parallel", [4, 8, 16])
def test_a_parallel_server_gets_as_many_as_it_works_on(parallel: int) -> None:
    """And a few more, that one is at hand when one is done."""
    settled = levels(parallel, service_seconds=0.01)[1500:]
    assert parallel <= min(settled)
    assert max(settled) <= 2 * parallel


def test_a_server_that_never_slows_down_gets_all_that_is_allowed() -> None:
    """One that makes batches of calls by itself, for example."""
    assert levels(parallel=1000, service_seconds=0.01)[-1] == MAX_CALLS


def test_a_server_that_makes_batches_of_calls_gets_all_that_is_allowed() -> None:
    """It takes twice as long for eight times as many, which is no reason to send fewer; failures are."""
    state = Concurrency()
    for _ in range(1000):
        took = 0.01 * (1 + state.calls / 8)
        state = answered(
            state, batch_size=1, seconds=took, in_flight=state.calls, max_calls=MAX_CALLS, single=True
        )
    assert state.calls == MAX_CALLS
    assert failed(state).calls == MAX_CALLS // 2


def test_nothing_is_learnt_while_there_is_nothing_to_do() -> None:
    """Single calls now and then are no reason to send more at once."""
    state = Concurrency()
    for _ in range(100):
        state = answered(state, batch_size=1, seconds=0.01, in_flight=1, max_calls=MAX_CALLS)
    assert state.calls == Concurrency().calls


def test_failures_halve_it_and_one_call_remains() -> None:
    """So that what has come back is found."""
    state = Concurrency(level=20.0)
    state = failed(state)
    assert state.calls == 10
    for _ in range(10):
        state = failed(state)
    assert state.calls == 1


def test_a_version_may_allow_fewer() -> None:
    """Its limit is kept from the first call on."""
    assert limited(Concurrency(), 1).calls == 1
