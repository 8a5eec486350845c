"""workers/calls/call_bytes.py: the limit of bytes in one call."""

from workers.calls.call_bytes import MAX_BYTES, RENEWAL_SECONDS, CallBytes, on_success, on_too_large


def too_large(state: CallBytes, batch_size: int, size_bytes: int, now: float = 0.0) -> CallBytes:
    return on_too_large(state, batch_size=batch_size, size_bytes=size_bytes, now=now)


def test_a_call_that_is_too_large_halves_the_limit_and_it_is_remembered() -> None:
    """Calls of before that fail later do not raise it; successes raise it only after the renewal time."""
    state = too_large(CallBytes(), 100, 1000)
    assert state.limit == 500
    assert too_large(state, 100, 2000).limit == 500
    assert on_success(state, now=RENEWAL_SECONDS - 1).limit == 500
    state = on_success(state, now=RENEWAL_SECONDS)
    assert state.limit == 1000
    assert on_success(state, now=RENEWAL_SECONDS + 1).limit == 1000


def test_it_grows_to_the_maximum_and_not_beyond() -> None:
    """One doubling in each renewal time."""
    state = too_large(CallBytes(), 100, MAX_BYTES)
    for step in range(1, 4):
        state = on_success(state, now=step * RENEWAL_SECONDS)
    assert state.limit == MAX_BYTES


def test_an_input_that_is_too_large_alone_gives_the_limit_back() -> None:
    """The calls before failed for it: others get large batches at once."""
    state = CallBytes()
    for size in (1024, 512, 256, 128):
        state = too_large(state, size // 64, size)
    assert state.limit == 64
    assert too_large(state, 1, 64).limit == MAX_BYTES


def test_a_limit_that_was_learned_before_is_kept_by_such_an_input() -> None:
    """It becomes what it was at the last renewal."""
    state = on_success(too_large(CallBytes(), 100, 1000), now=RENEWAL_SECONDS)
    state = too_large(state, 10, 100, now=3 * RENEWAL_SECONDS)
    assert too_large(state, 1, 10, now=3 * RENEWAL_SECONDS).limit == 1000


def test_the_limit_is_never_below_one_byte() -> None:
    """Inputs of unknown size count as one byte."""
    assert too_large(CallBytes(), 2, 1).limit == 1
