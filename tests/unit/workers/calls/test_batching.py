"""workers/calls/batching.py: which inputs go together."""

import itertools
import math
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from workers.calls.batching import BatchQueue, Caller, Part


def caller(count: int, deadline_loop_seconds: float = math.inf, first: int = 0) -> Caller:
    return Caller(
        [{"x": number} for number in range(first, first + count)], deadline_loop_seconds, [1] * count
    )


def queue_of(*callers: Caller) -> BatchQueue:
    queue = BatchQueue()
    for each in callers:
        queue.add(each)
    return queue


def numbers(batch: list[Part]) -> list[int]:
    return [value["x"] for part in batch for value in part.inputs]


@given(st.lists(st.integers(1, 30), max_size=20), st.integers(1, 40))
def test_every_input_goes_once_and_in_order(sizes: list[int], max_batch: int) -> None:
    """All batches but the last are full."""
    starts = [sum(sizes[:at]) for at in range(len(sizes))]
    queue = queue_of(*(caller(size, first=start) for size, start in zip(sizes, starts, strict=True)))
    batches = []
    while queue:
        batches.append(numbers(queue.take(max_batch, math.inf)))
    assert [number for batch in batches for number in batch] == list(range(sum(sizes)))
    assert all(len(batch) == max_batch for batch in batches[:-1])


@given(
    st.lists(st.lists(st.integers(1, 100), min_size=1, max_size=20), max_size=10),
    st.integers(1, 20),
    st.integers(1, 200),
)
def test_no_batch_has_more_bytes_than_the_limit(
    sizes: list[list[int]], max_batch: int, max_bytes: int
) -> None:
    """Unless it is one input; every input goes once, in order, and no input waits that fits."""
    callers = [Caller([{"x": size} for size in each], math.inf, each) for each in sizes]
    queue = queue_of(*callers)
    batches: list[list[int]] = []
    while queue:
        batches.append(
            [part_size for part in queue.take(max_batch, max_bytes) for part_size in sizes_of(part)]
        )
    assert [size for batch in batches for size in batch] == [size for each in sizes for size in each]
    for batch, after in itertools.pairwise([*batches, []]):
        assert len(batch) == 1 or (len(batch) <= max_batch and sum(batch) <= max_bytes)
        assert not after or len(batch) == max_batch or sum(batch) + after[0] > max_bytes


def sizes_of(part: Part) -> list[int]:
    assert part.size_bytes == sum(value["x"] for value in part.inputs)
    return [value["x"] for value in part.inputs]


def test_late_and_cancelled_callers_are_left_out() -> None:
    """The rest of the batch is unaffected."""
    late, cancelled, patient = (
        caller(2, deadline_loop_seconds=5.0),
        caller(2),
        caller(2, deadline_loop_seconds=5.1, first=10),
    )
    queue = queue_of(late, cancelled, patient)
    cancelled.cancelled = True
    assert queue.drop_late(now=4.9) == []
    assert [part.caller for part in queue.drop_late(now=5.0)] == [late]
    assert numbers(queue.take(10, math.inf)) == [10, 11]
    assert not queue


def test_a_caller_takes_its_outcomes_as_batches_end() -> None:
    """Parts end in any order; the inputs of an ended part are not kept while others wait."""
    one = caller(5)
    queue = queue_of(one)
    first, second = queue.take(3, math.inf), queue.take(3, math.inf)
    one.settle(second[0].start, ["d", "e"])
    assert (one.take_settled(), one.unsettled) == ([(3, ["d", "e"])], 3)
    assert one.inputs == [{"x": 0}, {"x": 1}, {"x": 2}, {}, {}]
    one.settle(first[0].start, ["a", "b", "c"])
    assert (one.take_settled(), one.unsettled) == ([(0, ["a", "b", "c"])], 0)
    assert one.take_settled() == []


@given(st.lists(st.integers(1, 9), min_size=1, max_size=9), st.integers(1, 40))
def test_what_is_put_back_goes_first_and_alone(sizes: list[int], max_batch: int) -> None:
    """Each of its inputs in a call for itself, in order; what waited meanwhile comes after."""
    starts = [sum(sizes[:at]) for at in range(len(sizes))]
    queue = queue_of(*(caller(size, first=start) for size, start in zip(sizes, starts, strict=True)))
    late = queue.take(max_batch, math.inf)
    count = len(numbers(late))
    queue.put_back([replace(part, most=1) for part in late])
    assert queue.holds(sum(sizes))
    assert not queue.holds(sum(sizes) + 1)
    batches = []
    while queue:
        batches.append(numbers(queue.take(max_batch, math.inf)))
    assert batches[:count] == [[number] for number in range(count)]
    assert [number for batch in batches for number in batch] == list(range(sum(sizes)))
