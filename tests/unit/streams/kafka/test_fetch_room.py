"""streams/kafka/fetch_room.py: what is taken fits, and nothing that fits is left."""

from itertools import accumulate

from hypothesis import given
from hypothesis import strategies as st

from streams.kafka.fetch_room import FetchRoom

SIZES = st.lists(st.integers(1, 30), min_size=1, max_size=20)


@given(st.lists(SIZES, min_size=1, max_size=4), st.integers(1, 100))
def test_what_is_taken_fits(batches: list[list[int]], room_bytes: int) -> None:
    """In all batches together, but for a first record of any size; every record that still fits is taken."""
    room = FetchRoom(room_bytes)
    taken: list[int] = []
    for sizes in batches:
        if room.is_full:
            break
        end = room.take([0, *accumulate(sizes)], 0, len(sizes))
        taken += sizes[:end]
        assert room.is_full == (end < len(sizes))
        if room.is_full:
            assert sum(taken) + sizes[end] > room_bytes
    assert taken
    assert len(taken) == 1 or sum(taken) <= room_bytes


def test_a_part_of_a_batch() -> None:
    """From its middle, and not beyond the end that is asked for."""
    room = FetchRoom(25)
    assert room.take(range(0, 110, 10), 3, 4) == 4
    assert not room.is_full
    assert room.take(range(0, 110, 10), 4, 10) == 5
    assert room.is_full
