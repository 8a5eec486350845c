"""workers/calls/batch_size.py: the limit follows the time of an example."""

from hypothesis import given
from hypothesis import strategies as st

from workers.calls.batch_size import (
    AFTER_TIMEOUT,
    LONGEST,
    RENEWAL_SECONDS,
    START,
    BatchSize,
    capped,
    on_success,
    on_timeout,
)

TIMEOUT_SECONDS = 2.0


def after_calls(
    state: BatchSize, overhead_seconds: float, example_seconds: float, max_batch: int, calls: int
) -> BatchSize:
    """The state after full calls one after the other, some of which take too long."""
    for _ in range(calls):
        seconds = overhead_seconds + example_seconds * state.limit
        if seconds > TIMEOUT_SECONDS:
            state = on_timeout(state, state.limit)
        else:
            state = on_success(
                state,
                batch_size=state.limit,
                seconds=seconds,
                is_alone=True,
                now=0,
                timeout_seconds=TIMEOUT_SECONDS,
                max_batch=max_batch,
            )
    return state


@given(st.floats(0, 0.9), st.floats(1e-6, 1.0), st.integers(2, 4096))
def test_it_settles_where_a_call_fits(overhead: float, example: float, max_batch: int) -> None:
    """Well within the timeout wherever one example fits, without further changes."""
    state = after_calls(capped(BatchSize(), max_batch), overhead, example, max_batch, calls=30)
    assert 1 <= state.limit <= max_batch
    if overhead + example <= LONGEST * TIMEOUT_SECONDS:
        assert overhead + example * state.limit <= TIMEOUT_SECONDS
    assert after_calls(state, overhead, example, max_batch, calls=1).limit == state.limit
    assert not state.is_probing


@given(st.integers(2, 4096))
def test_a_fast_model_gets_the_maximum_soon(max_batch: int) -> None:
    """Within a few calls, a thousandth of a millisecond for each example."""
    state = after_calls(capped(BatchSize(), max_batch), 0.0001, 0.000001, max_batch, calls=6)
    assert state.limit == max_batch


@given(st.floats(0.0001, 0.5))
def test_batches_that_do_not_pay_stay_short(example: float) -> None:
    """A model whose time is proportional to the examples: its calls take an eighth of the timeout at most."""
    state = after_calls(BatchSize(), 0, example, 4096, calls=30)
    assert state.limit == 1 or example * state.limit <= TIMEOUT_SECONDS / 8


@given(st.lists(st.floats(0, 0.4), min_size=40, max_size=40))
def test_other_work_on_the_machine_keeps_no_batch_small(delays: list[float]) -> None:
    """Every second call of a fast model is delayed."""
    state = BatchSize()
    for number, delay in enumerate(delays):
        state = on_success(
            state,
            batch_size=state.limit,
            seconds=0.0001 * state.limit + delay * (number % 2),
            is_alone=True,
            now=0,
            timeout_seconds=TIMEOUT_SECONDS,
            max_batch=256,
        )
    assert state.limit == 256


def test_batches_that_pay_grow() -> None:
    """Each call has an overhead of a quarter of the timeout."""
    assert after_calls(BatchSize(), 0.5, 0.0001, 256, calls=20).limit == 256


@given(st.lists(st.integers(1, 512), min_size=1))
def test_timeouts_of_calls_from_before_count_once(batch_sizes: list[int]) -> None:
    """Calls in flight together end together; the limit follows from the smallest that was allowed."""
    state = BatchSize(limit=256)
    for batch_size in batch_sizes:
        before = state.limit
        state = on_timeout(state, batch_size)
        assert state.limit == (before if batch_size > before else max(1, batch_size // AFTER_TIMEOUT))
    once = on_timeout(BatchSize(limit=256), 256)
    assert on_timeout(once, 256) == once


def test_a_partial_batch_changes_nothing() -> None:
    """Few requests, each slow or fast, are no reason to change the limit."""
    state = BatchSize()
    for seconds in (0.001, 1.9):
        state = on_success(
            state,
            batch_size=3,
            seconds=seconds,
            is_alone=True,
            now=0,
            timeout_seconds=TIMEOUT_SECONDS,
            max_batch=256,
        )
    assert state.limit == START


def test_it_is_measured_anew() -> None:
    """After a while, and after a timeout: the next full batch is alone again."""
    settled = after_calls(BatchSize(), 0, 0.01, 256, calls=30)
    assert not settled.is_probing

    def among_others(now: float) -> BatchSize:
        return on_success(
            settled,
            batch_size=settled.limit,
            seconds=0.1,
            is_alone=False,
            now=now,
            timeout_seconds=TIMEOUT_SECONDS,
            max_batch=256,
        )

    assert not among_others(RENEWAL_SECONDS - 1).is_probing
    renewed = among_others(RENEWAL_SECONDS + 1)
    assert (renewed.is_probing, renewed.lone_seconds, renewed.limit) == (True, {}, settled.limit)
    assert on_timeout(settled, settled.limit).is_probing


def test_with_a_maximum_of_one_there_is_nothing_to_learn() -> None:
    """TorchServe's calls never wait for a measurement."""
    state = capped(BatchSize(), 1)
    assert (state.limit, state.is_probing) == (1, False)
    assert after_calls(state, 0, 1.0, 1, calls=3) == state
