"""workers/backends/response_room.py: what arrives at one time is bounded, and every response ends."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from tests.support.deadline import DEADLINE_SECONDS
from workers.backends.response_room import ResponseRoom

ROOM_BYTES, CHUNK_BYTES, LARGEST_CHUNKS = 10, 4, 5


@given(st.lists(st.lists(st.integers(1, CHUNK_BYTES), max_size=LARGEST_CHUNKS), max_size=12))
def test_all_arrive_within_the_room_and_one_response_more(responses: list[list[int]]) -> None:
    """In chunks of any size, all at once."""
    room, arrived, most = ResponseRoom(ROOM_BYTES), 0, 0

    async def arrive(chunks: list[int]) -> None:
        nonlocal arrived, most
        arrival = room.arrival()
        taken = 0
        for size_bytes in chunks:
            await arrival.enter(size_bytes)
            taken += size_bytes
            arrived += size_bytes
            most = max(most, arrived)
            await asyncio.sleep(0)
        arrived -= taken
        arrival.leave()

    async def all_arrive() -> None:
        async with asyncio.timeout(DEADLINE_SECONDS), asyncio.TaskGroup() as arriving:
            for chunks in responses:
                arriving.create_task(arrive(chunks))

    asyncio.run(all_arrive())
    assert most <= ROOM_BYTES + LARGEST_CHUNKS * CHUNK_BYTES
    assert arrived == 0


async def test_one_that_is_given_up_makes_room() -> None:
    """The one that was let through, and one that waits."""
    room = ResponseRoom(ROOM_BYTES)
    holds, through, waits, last = (room.arrival() for _ in range(4))
    await holds.enter(ROOM_BYTES)
    await through.enter(1)
    waiting = [asyncio.create_task(each.enter(2)) for each in (waits, last)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.wait(waiting, timeout=0)
    assert not waiting[1].done()
    through.leave()
    await asyncio.wait_for(waiting[1], DEADLINE_SECONDS)
