"""workers/cache/redis_cache.py on a real Redis: reads and writes, and a Redis that stops, hangs or refuses."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

import pytest
from redis import asyncio as redis
from structlog.testing import capture_logs

from deploy.local.redis import Redis
from schemas.errors import SetupError
from tests.support.deadline import DEADLINE_SECONDS, deadline
from tests.support.servers.forwarder import forwarder
from tests.support.stack.services import StackAddresses
from workers.cache.redis_cache import KEYS_PER_WRITE, MAX_VALUE_BYTES, PredictionCache

# Longer than the default: a busy machine must not look like a hung Redis.
TIMEOUT_SECONDS = 1.0
T = TypeVar("T")
NAMESPACE = b"headrace:0123456789abcdef:pred:"
SECRET = bytes(range(32))
KEYS = [b"m:v1:%d" % number for number in range(50)]
ITEMS = [(key, b'[%d, "x"]' % number) for number, key in enumerate(KEYS)]


@pytest.fixture
async def cache(own_redis: Redis) -> AsyncIterator[PredictionCache]:
    made = PredictionCache(
        own_redis.url, namespace=NAMESPACE, secret=SECRET, timeout_seconds=10 * DEADLINE_SECONDS
    )
    yield made
    await made.close()


@pytest.fixture
async def hasty_cache(own_redis: Redis) -> AsyncIterator[PredictionCache]:
    made = PredictionCache(own_redis.url, namespace=NAMESPACE, secret=SECRET, timeout_seconds=TIMEOUT_SECONDS)
    yield made
    await made.close()


@pytest.fixture
async def client(own_redis: Redis) -> AsyncIterator["redis.Redis"]:
    made = redis.Redis.from_url(own_redis.url)
    yield made
    await made.aclose()


def without_waiting(call: Coroutine[Any, Any, T]) -> T:
    """The result of a call that ends without giving control to the event loop; any other fails the test."""
    try:
        call.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    call.close()
    raise AssertionError("it waits")


async def read_raw(client: "redis.Redis", key: bytes) -> bytes:
    """What Redis has under one of our keys."""
    value = await client.get(NAMESPACE + key)
    assert isinstance(value, bytes)
    return value


async def until_in_use_again(cache: PredictionCache) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not cache.available:
            assert await cache.get_many(KEYS[:1]) == [None]
            await asyncio.sleep(0)


async def test_keeps_what_it_is_given(cache: PredictionCache) -> None:
    """Values come back for their keys in the order asked; unknown keys are None."""
    await cache.set_many(ITEMS, ttl_seconds=60)
    asked = [KEYS[7], b"m:v1:unknown", KEYS[3]]
    assert await cache.get_many(asked) == [b'[7, "x"]', None, b'[3, "x"]']
    assert await cache.get_many([]) == []


async def test_every_chunk_is_kept_for_its_time(cache: PredictionCache, client: "redis.Redis") -> None:
    """More keys than one call takes are all there, each with the TTL asked for."""
    items = [(b"m:v1:%d" % n, b"%d" % n) for n in range(KEYS_PER_WRITE + 3)]
    await cache.set_many(items, ttl_seconds=77)
    assert await cache.get_many([key for key, _ in items]) == [value for _, value in items]
    for key, _ in (items[0], items[-1]):
        assert 70 <= await client.ttl(NAMESPACE + key) <= 77


async def test_a_value_that_is_too_big_is_left_out(cache: PredictionCache) -> None:
    """It is not written; its neighbours are."""
    big = b"x" * (MAX_VALUE_BYTES + 1)
    await cache.set_many([(KEYS[0], b"1"), (KEYS[1], big), (KEYS[2], big[:-1])], ttl_seconds=60)
    assert await cache.get_many(KEYS[:3]) == [b"1", None, big[:-1]]


async def test_a_key_of_another_type_is_a_miss(cache: PredictionCache, client: "redis.Redis") -> None:
    """A foreign list under our key reads as None; other values are returned."""
    await client.rpush(NAMESPACE + KEYS[0], "foreign")
    await cache.set_many(ITEMS[1:2], ttl_seconds=60)
    assert await cache.get_many(KEYS[:2]) == [None, b'[1, "x"]']
    assert cache.available


async def test_foreign_values_are_misses(cache: PredictionCache, client: "redis.Redis") -> None:
    """What another program wrote, moved from another key, cut or enlarged is counted and logged.

    The next prediction overwrites it.
    """
    await cache.set_many(ITEMS, ttl_seconds=60)
    ours, others = await asyncio.gather(*(read_raw(client, key) for key in (KEYS[0], KEYS[9])))
    foreign = [
        b"",
        b"not json",
        b'0.01,"request_id":"VICTIM","user_id":"alice"',
        others,
        ours[:-1],
        ours + b" ",
        b"x" * (1024 * 1024),
    ]
    for key, value in zip(KEYS, foreign, strict=False):
        await client.set(NAMESPACE + key, value)
    with capture_logs() as logs:
        for _ in range(2):
            values = await cache.get_many(KEYS)
            assert values[: len(foreign)] == [None] * len(foreign)
            assert values[len(foreign) :] == [value for _, value in ITEMS[len(foreign) :]]
    assert cache.rejected_values == 2 * len(foreign)
    assert [(log["log_level"], log["values"]) for log in logs] == [("warning", len(foreign))]
    await cache.set_many(ITEMS, ttl_seconds=60)
    assert await cache.get_many(KEYS) == [value for _, value in ITEMS]


async def test_another_secret_is_foreign(cache: PredictionCache, own_redis: Redis) -> None:
    """A worker of another installation under the same keys."""
    other = PredictionCache(own_redis.url, namespace=NAMESPACE, secret=bytes(32))
    await other.set_many(ITEMS, ttl_seconds=60)
    assert await cache.get_many(KEYS) == [None] * len(KEYS)
    assert await other.get_many(KEYS) == [value for _, value in ITEMS]
    await other.close()


async def test_an_emptied_script_cache_costs_nothing(cache: PredictionCache, client: "redis.Redis") -> None:
    """After SCRIPT FLUSH (or a restart of Redis) writes go on."""
    await cache.set_many(ITEMS[:1], ttl_seconds=60)
    await client.script_flush()
    await cache.set_many(ITEMS[1:2], ttl_seconds=60)
    assert await cache.get_many(KEYS[:2]) == [b'[0, "x"]', b'[1, "x"]']


async def test_hung_costs_one_timeout_in_all(
    cache: PredictionCache, hasty_cache: PredictionCache, own_redis: Redis
) -> None:
    """SIGSTOP: eight slices wait for one timeout together, those that come after it do not wait; then it returns."""
    await cache.set_many(ITEMS, ttl_seconds=60)
    own_redis.pause()
    with capture_logs() as logs:
        answers = await asyncio.gather(*(hasty_cache.get_many(KEYS) for _ in range(8)))
        for _ in range(100):
            answers.append(without_waiting(hasty_cache.get_many(KEYS)))
            without_waiting(hasty_cache.set_many(ITEMS, ttl_seconds=60))
        assert answers == [[None] * len(KEYS)] * 108
        assert not hasty_cache.available

        own_redis.resume()
        await until_in_use_again(hasty_cache)
    assert await hasty_cache.get_many(KEYS) == [value for _, value in ITEMS]
    assert [(log["event"].partition(";")[0], log["log_level"]) for log in logs] == [
        ("prediction cache lost", "warning"),
        ("prediction cache in use again", "info"),
    ]


async def test_probes_of_a_hung_redis_delay_nobody(hasty_cache: PredictionCache, own_redis: Redis) -> None:
    """While Redis stays hung, the read that is repeated in the background makes no caller wait."""
    own_redis.pause()
    await hasty_cache.get_many(KEYS)
    async with asyncio.timeout(DEADLINE_SECONDS):
        while hasty_cache._probe is None or not hasty_cache._probe.done():
            without_waiting(hasty_cache.get_many(KEYS))
            await asyncio.sleep(0)
    own_redis.resume()
    assert not hasty_cache.available


async def test_stopped_and_started_again(cache: PredictionCache, own_redis: Redis) -> None:
    """A stopped Redis is not waited for at all; started again it is used, idle connections and all."""
    await asyncio.gather(*(cache.get_many(KEYS) for _ in range(8)))
    own_redis.stop()
    # Its own timeout is far beyond the deadline.
    async with deadline("an answer without Redis"):
        assert await cache.get_many(KEYS) == [None] * len(KEYS)
    assert not cache.available
    own_redis.start()
    await until_in_use_again(cache)
    await cache.set_many(ITEMS, ttl_seconds=60)
    assert await cache.get_many(KEYS) == [value for _, value in ITEMS]


async def test_a_quick_restart_is_not_noticed(
    cache: PredictionCache, client: "redis.Redis", own_redis: Redis
) -> None:
    """Connections that a restart closed are replaced, not taken for a lost cache."""
    await asyncio.gather(*(cache.get_many(KEYS) for _ in range(8)))
    own_redis.stop()
    own_redis.start()
    # By the time a round trip is done, the loop has seen the old connections end.
    await client.ping()
    await asyncio.gather(*(cache.get_many(KEYS) for _ in range(8)))
    assert cache.available


async def test_a_redis_that_is_full_is_still_read(cache: PredictionCache, client: "redis.Redis") -> None:
    """Out of memory: writes are refused and logged once, reads go on, and writes come back."""
    await cache.set_many(ITEMS[:1], ttl_seconds=60)
    with capture_logs() as logs:
        await client.config_set("maxmemory-policy", "noeviction")
        await client.config_set("maxmemory", "1")
        for _ in range(3):
            await cache.set_many(ITEMS[1:], ttl_seconds=60)
        assert await cache.get_many(KEYS[:2]) == [b'[0, "x"]', None]
        assert cache.available
        await client.config_set("maxmemory", "0")
        for _ in range(3):
            await cache.set_many(ITEMS[1:], ttl_seconds=60)
    assert await cache.get_many(KEYS[:2]) == [b'[0, "x"]', b'[1, "x"]']
    assert [log["log_level"] for log in logs] == ["warning", "info"]


async def test_a_demoted_redis_is_left(
    own_redis: Redis, client: "redis.Redis", stack: StackAddresses
) -> None:
    """A fail-over behind one address that cuts no connection: the first refused write makes the connections anew."""
    other = redis.Redis.from_url(stack.redis_url)
    ports = [connected.connection_pool.connection_kwargs["port"] for connected in (client, other)]
    # The other Redis has keys of other tests.
    namespace = b"headrace:%b:pred:" % uuid.uuid4().hex.encode()
    async with forwarder(ports[0]) as address:
        url = f"redis://127.0.0.1:{address.port}/0"
        cache = PredictionCache(url, namespace=namespace, secret=SECRET, timeout_seconds=DEADLINE_SECONDS)
        await cache.set_many(ITEMS, ttl_seconds=60)
        await asyncio.gather(*(cache.get_many(KEYS) for _ in range(4)))
        await client.replicaof("127.0.0.1", "1")
        address.target = ports[1]
        for _ in range(2):
            await cache.set_many(ITEMS, ttl_seconds=60)
        assert await cache.get_many(KEYS) == [value for _, value in ITEMS]
        assert await other.exists(*(namespace + key for key in KEYS)) == len(KEYS)
        await cache.close()
    await other.aclose()


async def test_a_wrong_password_is_a_lost_cache_that_names_no_password(own_redis: Redis) -> None:
    """Redis refuses us: predictions go on without it, and the log has no secret."""
    url = own_redis.url.replace("redis://", "redis://somebody:secret-word@")
    cache = PredictionCache(url, namespace=NAMESPACE, secret=SECRET)
    with capture_logs() as logs:
        assert await cache.get_many(KEYS) == [None] * len(KEYS)
    await cache.close()
    assert not cache.available
    assert len(logs) == 1
    assert "secret-word" not in str(logs)


@pytest.mark.parametrize(
    "url",
    [
        "http://somebody:secret-word@127.0.0.1",
        "redis://somebody:secret-word@127.0.0.1:port",
        "redis://:secret/word@127.0.0.1:6379/0",
        "redis://:secret-word@127.0.0.1:6379/0?no_such_option=1",
        "redis://:secret-word@127.0.0.1:6379/0?health_check_interval=secret",
    ],
)
def test_a_url_that_cannot_be_used_is_refused(url: str) -> None:
    """At once, with how to write it, and without quoting it."""
    with pytest.raises(SetupError) as refusal:
        PredictionCache(url, namespace=NAMESPACE, secret=SECRET)
    assert "secret" not in str(refusal.value)
    assert "redis://[USER:PASSWORD@]HOST:PORT/DB" in str(refusal.value)


async def test_close_is_idempotent_and_ends_the_probe(own_redis: Redis) -> None:
    """Closing twice, also while a hung Redis is probed, is quiet and quick."""
    cache = PredictionCache(own_redis.url, namespace=NAMESPACE, secret=SECRET, timeout_seconds=0.1)
    own_redis.pause()
    async with asyncio.timeout(DEADLINE_SECONDS):
        await cache.get_many(KEYS)
        while cache._probe is None:
            await cache.get_many(KEYS)
            await asyncio.sleep(0)
    await cache.close()
    await cache.close()
    own_redis.resume()
    assert cache._probe.cancelled()
