"""The port `Cache` of streams/serving/ports.py: the same tests on Redis and on the cache in memory."""

from collections.abc import AsyncIterator

import pytest

from streams.serving.ports import Cache
from tests.support.deadline import DEADLINE_SECONDS
from tests.support.worker.pipeline_harness import MemoryCache
from workers.cache.redis_cache import KEYS_PER_WRITE, MAX_VALUE_BYTES, PredictionCache

TTL_SECONDS = 60
NAMESPACE = b"n:"
SECRET = bytes(32)


@pytest.fixture
async def redis_cache(redis_url: str) -> AsyncIterator[PredictionCache]:
    made = PredictionCache(redis_url, namespace=NAMESPACE, secret=SECRET, timeout_seconds=DEADLINE_SECONDS)
    yield made
    await made.close()


@pytest.fixture(params=["redis_cache", "memory"])
def cache(request: pytest.FixtureRequest) -> Cache:
    if request.param == "memory":
        return MemoryCache()
    made: Cache = request.getfixturevalue(request.param)
    return made


async def test_values_come_in_the_order_of_their_keys(cache: Cache) -> None:
    """A key without a value is None, wherever it is; a key may be read twice."""
    await cache.set_many([(b"a", b"1"), (b"b", b"2")], TTL_SECONDS)
    assert await cache.get_many([b"b", b"unknown", b"a", b"b"]) == [b"2", None, b"1", b"2"]


async def test_nothing_is_read_and_written(cache: Cache) -> None:
    """Without keys there are no values, and without items nothing changes."""
    assert await cache.get_many([]) == []
    await cache.set_many([], TTL_SECONDS)
    assert await cache.get_many([b"a"]) == [None]


async def test_a_later_value_replaces_an_earlier_one(cache: Cache) -> None:
    """Also when both are in one call."""
    await cache.set_many([(b"a", b"1"), (b"a", b"2")], TTL_SECONDS)
    assert await cache.get_many([b"a"]) == [b"2"]
    await cache.set_many([(b"a", b"3")], TTL_SECONDS)
    assert await cache.get_many([b"a"]) == [b"3"]


async def test_keys_and_values_are_bytes(cache: Cache) -> None:
    """Any bytes are stored unchanged, an empty value too."""
    items = [(b"\x00\xff\r\n", bytes(range(256))), (b"empty", b"")]
    await cache.set_many(items, TTL_SECONDS)
    assert await cache.get_many([key for key, _ in items]) == [value for _, value in items]


async def test_values_over_the_limit_are_left_out(cache: Cache) -> None:
    """The other values of the call are stored."""
    items = [(b"a", b"1"), (b"big", b"x" * (MAX_VALUE_BYTES + 1)), (b"limit", b"x" * MAX_VALUE_BYTES)]
    await cache.set_many(items, TTL_SECONDS)
    assert await cache.get_many([b"a", b"big", b"limit"]) == [b"1", None, items[2][1]]


async def test_any_number_of_values(cache: Cache) -> None:
    """More than one round trip takes."""
    items = [(b"%d" % number, b"v%d" % number) for number in range(2 * KEYS_PER_WRITE + 1)]
    await cache.set_many(items, TTL_SECONDS)
    assert await cache.get_many([key for key, _ in items]) == [value for _, value in items]
