"""streams/serving/output_buffer.py: who enters when, and when calls may begin."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.serving.output_buffer import PIECE_BYTES, RESPONSE_OVERHEAD_BYTES, OutputBuffer, pieces


async def entering(buffer: OutputBuffer, *sizes: int) -> list[asyncio.Task[None]]:
    tasks = [asyncio.create_task(buffer.enter(size)) for size in sizes]
    await asyncio.sleep(0)
    return tasks


async def test_they_enter_in_turn_as_others_leave() -> None:
    """A small one does not pass a large one that waits."""
    buffer, opened = OutputBuffer(10), []
    assert buffer.enters_at_once(6)
    large, small = await entering(buffer, 8, 1)
    assert not buffer.is_open
    assert not buffer.enters_at_once(1)
    buffer.when_open(lambda: opened.append(buffer.used_bytes))
    buffer.leave(6)
    await asyncio.gather(large, small)
    assert opened == [9]
    assert buffer.is_open
    buffer.leave(9)
    assert opened == [9]
    assert buffer.used_bytes == 0


async def test_an_empty_buffer_takes_any_size() -> None:
    buffer = OutputBuffer(10)
    await buffer.enter(11)
    (waits,) = await entering(buffer, 1)
    assert not waits.done()
    buffer.leave(11)
    await waits
    assert buffer.used_bytes == 1


@pytest.mark.parametrize("has_entered", [False, True])
async def test_one_that_is_cancelled_keeps_no_room(has_entered: bool) -> None:
    """Before it enters, and when it has entered and does not know it yet; the next one enters."""
    buffer = OutputBuffer(10)
    await buffer.enter(6)
    first, second = await entering(buffer, 7, 8)
    if has_entered:
        buffer.leave(6)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    if not has_entered:
        buffer.leave(6)
    await second
    assert first.cancelled()
    assert buffer.used_bytes == 8
    assert buffer.is_open


@given(st.integers(1, 12), st.lists(st.tuples(st.integers(1, 12), st.booleans()), max_size=8))
async def test_those_that_are_cancelled_together_keep_no_room(
    first: int, waits: list[tuple[int, bool]]
) -> None:
    """As in a hand-over; the others enter at last, and nothing is left when they leave."""
    buffer = OutputBuffer(10)
    await buffer.enter(first)
    tasks = await entering(buffer, *(size for size, _ in waits))
    for task, (_, is_cancelled) in zip(tasks, waits, strict=True):
        if is_cancelled:
            task.cancel()
    buffer.leave(first)
    for task, (size, _) in zip(tasks, waits, strict=True):
        await asyncio.wait([task])
        if not task.cancelled():
            buffer.leave(size)
    assert buffer.used_bytes == 0
    assert buffer.is_open


async def test_calls_begin_again_when_the_last_one_that_waits_is_cancelled() -> None:
    buffer, opened = OutputBuffer(10), []
    await buffer.enter(10)
    (waits,) = await entering(buffer, 1)
    buffer.when_open(lambda: opened.append(True))
    waits.cancel()
    await asyncio.gather(waits, return_exceptions=True)
    assert opened == [True]
    assert buffer.used_bytes == 10


@given(st.lists(st.sampled_from([0, 1, 1000, 400_000, PIECE_BYTES, 2 * PIECE_BYTES]), max_size=12))
def test_pieces_are_all_predictions_in_their_order(sizes: list[int]) -> None:
    """Each is as large as allowed, or has one prediction."""
    predictions = [bytes(size) for size in sizes]
    found = list(pieces(predictions))
    assert [at for start, stop, _ in found for at in range(start, stop)] == list(range(len(sizes)))
    for start, stop, size in found:
        assert size == sum(sizes[start:stop]) + RESPONSE_OVERHEAD_BYTES * (stop - start)
        assert size <= PIECE_BYTES or stop - start == 1
