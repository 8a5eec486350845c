"""Redis stops or hangs under load: answers continue without the cache, which is used again when Redis is back."""

import asyncio
from collections.abc import Callable
from operator import methodcaller

import pytest

from deploy.local.redis import Redis
from tests.support.worker.group import MakeGroup

LOST = "prediction cache lost; predictions continue without it"


@pytest.mark.parametrize(
    ("harm", "heal"),
    [(methodcaller("stop"), methodcaller("start")), (methodcaller("pause"), methodcaller("resume"))],
    ids=["stopped", "hanging"],
)
async def test_redis_fails(
    make_group: MakeGroup, own_redis: Redis, harm: Callable[[Redis], None], heal: Callable[[Redis], None]
) -> None:
    """Redis is given up once; until it is back every request is answered without the cache."""
    # Above the default: on a busy machine a Redis that is well may take longer than that.
    group = await make_group(redis_url=own_redis.url, redis_timeout_seconds=2.0)
    (worker,) = await group.start("one")
    async with group.traffic(inputs=50) as traffic:
        await traffic.until_answered(lambda response: response.cached, "cached")
        lost_before = worker.count(LOST)
        await asyncio.to_thread(harm, own_redis)
        await worker.logged(LOST, times=lost_before + 1)
        # Redis still hangs or is away: requests that are sent from now on do not wait for it.
        await traffic.until_answered(lambda response: not response.cached, "not cached")
        assert worker.count(LOST) == lost_before + 1
        await asyncio.to_thread(heal, own_redis)
        await worker.logged("prediction cache in use again")
        await traffic.until_answered(lambda response: response.cached, "cached again")
        assert await traffic.end() == 0
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
