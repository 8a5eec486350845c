"""streams/kafka/slices_in_hand.py: what ends by itself, and what is cancelled."""

import asyncio

from streams.kafka.slices_in_hand import SlicesInHand
from tests.support.deadline import DEADLINE_SECONDS


async def test_slices_in_hand_finish() -> None:
    """Those that take long are cancelled; they may keep what they have answered."""
    in_hand, done, never = SlicesInHand(), asyncio.Event(), asyncio.Event()
    ends: list[str] = []

    async def quick() -> None:
        await done.wait()
        ends.append("quick")

    async def slow() -> None:
        try:
            await never.wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            ends.append("slow")
            raise

    in_hand.begin(slow())
    in_hand.begin(quick())
    asyncio.get_running_loop().call_soon(done.set)
    assert await asyncio.wait_for(in_hand.finish(0.1), DEADLINE_SECONDS) == 1
    assert ends == ["quick", "slow"]
    assert await in_hand.finish(0.1) == 0


async def test_a_slice_that_does_not_end_is_not_waited_for() -> None:
    """Its partition goes all the same."""
    in_hand, released = SlicesInHand(), asyncio.Event()
    ended = asyncio.Event()

    async def stubborn() -> None:
        try:
            await released.wait()
        except asyncio.CancelledError:
            await released.wait()
        ended.set()

    in_hand.begin(stubborn())
    assert await asyncio.wait_for(in_hand.finish(0.01), DEADLINE_SECONDS) == 1
    released.set()
    await asyncio.wait_for(ended.wait(), DEADLINE_SECONDS)
