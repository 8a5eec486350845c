"""Workers that die, end, hang or join under load: every request is answered, by whoever is left."""

import time

from tests.worker_group import END_SECONDS, MakeGroup

# What a worker answers between two commits, a second apart, can come again when it dies.
UNCOMMITTED_MS = 3000


async def test_a_worker_is_killed(make_group: MakeGroup) -> None:
    """After kill -9 the other one takes all partitions; what was not committed yet may be repeated."""
    group = await make_group()
    one, two = await group.start("one", "two")
    async with group.traffic() as traffic:
        await traffic.until_served_by("one", "two")
        one.kill()
        killed_at_ms = time.time() * 1000
        await traffic.until_answered()
        repeats = await traffic.end()
        since = killed_at_ms - UNCOMMITTED_MS
        assert repeats <= sum(since < sent.at_ms < killed_at_ms for sent in traffic.sent)
    await group.end(two)


async def test_workers_end_and_join(make_group: MakeGroup) -> None:
    """SIGTERM and the start of another one lose nothing and repeat nothing."""
    group = await make_group()
    one, two = await group.start("one", "two")
    async with group.traffic() as traffic:
        await traffic.until_served_by("one", "two")
        one.terminate()
        assert await one.ended(END_SECONDS) == 0
        await traffic.until_answered()
        (three,) = await group.start("three")
        await traffic.until_served_by("two", "three")
        assert await traffic.end() == 0
    await group.end(two, three)


async def test_a_worker_hangs_and_comes_back(make_group: MakeGroup) -> None:
    """Paused for longer than its session, then resumed: the other serves its partitions, and gives some back."""
    # A call outlasts the pause of its worker: what is answered late is the same, not an error.
    group = await make_group(timeout_ms=60_000)
    one, two = await group.start("one", "two")
    async with group.traffic() as traffic:
        await traffic.until_served_by("one", "two")
        one.pause()
        await traffic.until_answered()
        one.resume()
        await traffic.until_served_by("one", "two")
        await traffic.end()
    await group.end(one, two)
