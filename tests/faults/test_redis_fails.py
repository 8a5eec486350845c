"""Redis stops or hangs under load: answers go on at once, and caching comes back by itself."""

import asyncio
import statistics
from collections.abc import Callable
from operator import methodcaller

import pytest

from deploy.local.redis import Redis
from tests.support.worker.group import MakeGroup

# One timeout of half a second is what a failure may cost; the rest is for a busy machine.
SLOWEST_MS = 3000
# Well under the timeout: nobody waits for it any more.
MEDIAN_MS = 250


@pytest.mark.parametrize(
    ("harm", "heal"),
    [(methodcaller("stop"), methodcaller("start")), (methodcaller("pause"), methodcaller("resume"))],
    ids=["stopped", "hanging"],
)
async def test_redis_fails(
    make_group: MakeGroup, own_redis: Redis, harm: Callable[[Redis], None], heal: Callable[[Redis], None]
) -> None:
    """It costs at most about one timeout once, then every request is answered without the cache."""
    group = await make_group(redis_url=own_redis.url)
    (worker,) = await group.start("one")
    async with group.traffic(inputs=50) as traffic:
        await traffic.until_answered(lambda response: response.cached, "cached")
        began = len(traffic.sent)
        await asyncio.to_thread(harm, own_redis)
        await worker.logged("prediction cache lost; predictions continue without it")
        lost = len(traffic.sent)
        await traffic.until_answered(lambda response: not response.cached, "not cached")
        without = len(traffic.sent)
        await asyncio.to_thread(heal, own_redis)
        await worker.logged("prediction cache in use again")
        await traffic.until_answered(lambda response: response.cached, "cached again")
        assert await traffic.end() == 0
        assert max(traffic.latencies_ms(began)) < SLOWEST_MS
        assert statistics.median(traffic.latencies_ms(lost, without)) < MEDIAN_MS
    await group.end(worker)


async def test_a_worker_starts_without_redis(make_group: MakeGroup, own_redis: Redis) -> None:
    """It serves from the first moment, and caches when Redis is there."""
    group = await make_group(redis_url=own_redis.url)
    own_redis.stop()
    (worker,) = await group.start("one")
    async with group.traffic(inputs=50) as traffic:
        await traffic.until_answered(lambda response: not response.cached, "not cached")
        await asyncio.to_thread(own_redis.start)
        await traffic.until_answered(lambda response: response.cached, "cached")
        assert await traffic.end() == 0
    await group.end(worker)
