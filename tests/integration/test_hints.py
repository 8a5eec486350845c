"""Hints on a real Redis: heard, lost and missed; and workers that follow, with them and without."""

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial
from operator import methodcaller
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from redis.asyncio import Redis as RedisClient

from deploy.local.redis import Redis
from registry import broadcast
from registry.broadcast import MAX_HINT_BYTES, HintListener, HintSender
from schemas.events import RouteHint
from streams.clients.predict_client import PredictClient
from streams.config.settings import Settings
from tests.support.deadline import DEADLINE_SECONDS, deadline, wait_until
from tests.support.kafka.topic_log import topic_log
from tests.support.models.served_model import serve_model
from tests.support.promotions.events import event, publish
from tests.support.promotions.hint_log import HintLog, hint_log
from tests.support.stack.services import MakeTopics
from tests.support.worker.process import StartWorker

CHANNEL = "headrace:0123456789abcdef:routes"
LOST = "hints are not received; the registry is polled"
SEND_TIMEOUT_SECONDS = 0.3
# On a busy machine a hint may miss its timeout; tests of hints that arrive must not lose one.
SURELY = {"redis_timeout_seconds": DEADLINE_SECONDS}
# Far beyond the deadline: a worker that follows before it has not waited for a poll.
NO_POLLS = {"registry_poll_seconds": 600.0, "stale_after_seconds": 1000.0}


@pytest.fixture
async def heard(own_redis: Redis) -> AsyncIterator[HintLog]:
    """Of a listener that is connected."""
    async with hint_log(own_redis.url, CHANNEL) as heard:
        await heard.until(lambda: heard.connections == 1)
        yield heard


@pytest.fixture
async def sender(own_redis: Redis) -> AsyncIterator[HintSender]:
    """Of the control worker's kind, with more patience: its first hint waits for a connection too."""
    sender = HintSender(own_redis.url, channel=CHANNEL, timeout_seconds=DEADLINE_SECONDS)
    yield sender
    await sender.close()


def hint(epoch: int) -> RouteHint:
    return RouteHint(model_name="m", revision=epoch, epoch=epoch)


async def test_a_hint_is_heard(heard: HintLog, sender: HintSender) -> None:
    """As it was sent, by every listener there is."""
    sent = [hint(1), hint(2), hint(3)]
    for one in sent:
        assert await sender.send(one)
    await heard.until(lambda: heard.hints == sent)


async def test_hints_need_no_newer_protocol_than_the_cache(own_redis: Redis) -> None:
    """Proxies, and Redis before version 6, do not know HELLO, by which a client asks for RESP3."""
    client: Any = RedisClient.from_url(own_redis.url, protocol=2)
    async with client:
        await client.execute_command("ACL", "SETUSER", "default", "-hello")
    sender = HintSender(own_redis.url, channel=CHANNEL, timeout_seconds=DEADLINE_SECONDS)
    try:
        async with hint_log(own_redis.url, CHANNEL) as heard:
            await heard.until(lambda: heard.connections == 1)
            assert await sender.send(hint(1))
            await heard.until(lambda: heard.hints == [hint(1)])
    finally:
        await sender.close()


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\xff",
        b"null",
        b"[]",
        b"{}",
        b'{"model_name": "m", "revision": 1}',
        b'{"model_name": "m", "revision": 1, "epoch": -1}',
        b'{"model_name": "m", "revision": 1, "epoch": "1"}',
        b'{"model_name": 7, "revision": 1, "epoch": 1}',
        b'{"model_name": "m", "revision": 1, "epoch": NaN}',
        b'{"model_name": "m", "revision": 1, "epoch": 1, "more": "%b"}' % (b"x" * MAX_HINT_BYTES),
        b"[" * 100_000,
    ],
    ids=lambda garbage: repr(garbage[:60]),
)
async def test_garbage_is_ignored(
    heard: HintLog, sender: HintSender, own_redis: Redis, garbage: bytes
) -> None:
    """Anybody may write to the channel; the next hint is heard, and the connection is still the first one."""
    async with RedisClient.from_url(own_redis.url) as client:
        await client.publish(CHANNEL, garbage)
    await sender.send(hint(1))
    await heard.until(lambda: heard.hints == [hint(1)])
    assert heard.connections == 1


async def test_what_is_added_to_a_hint_is_ignored(heard: HintLog, own_redis: Redis) -> None:
    """A later version of the control worker may say more."""
    async with RedisClient.from_url(own_redis.url) as client:
        await client.publish(CHANNEL, b'{"model_name": "m", "revision": 1, "epoch": 1, "more": [1]}')
    await heard.until(lambda: heard.hints == [hint(1)])


async def test_a_redis_that_hangs_is_noticed_by_its_silence(
    heard: HintLog, sender: HintSender, own_redis: Redis
) -> None:
    """The connection stays open and says nothing; when Redis goes on the registry is read, and hints are received."""
    own_redis.pause()
    await heard.until(lambda: LOST in heard.logged)
    assert heard.connections == 1
    own_redis.resume()
    await heard.until(lambda: heard.connections == 2)
    assert await sender.send(hint(1))
    await heard.until(lambda: heard.hints == [hint(1)])


async def test_a_redis_that_comes_back_is_heard_again(
    heard: HintLog, sender: HintSender, own_redis: Redis
) -> None:
    """Stopped in order or killed: the loss is logged once, and each return causes a read of the registry."""
    for returns, end in enumerate((methodcaller("stop"), methodcaller("kill")), 1):
        await asyncio.to_thread(end, own_redis)
        await heard.until(partial(lambda times: heard.logged.count(LOST) == times, returns))
        assert not await sender.send(hint(0))
        await asyncio.to_thread(own_redis.start)
        await heard.until(partial(lambda times: heard.connections == 1 + times, returns))
        assert await sender.send(hint(returns))
        await heard.until(partial(lambda epoch: heard.hints[-1:] == [hint(epoch)], returns))
    assert heard.hints == [hint(1), hint(2)]


async def test_a_listener_starts_without_redis(own_redis: Redis) -> None:
    """A worker does not wait for it; hints are received when it is there."""
    own_redis.stop()
    async with hint_log(own_redis.url, CHANNEL) as heard:
        await heard.until(lambda: heard.logged == [LOST])
        await asyncio.to_thread(own_redis.start)
        await heard.until(lambda: heard.connections == 1)


async def test_a_listener_ends_whenever_it_is_told(own_redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of a ping too: a worker that ends waits for it."""
    monkeypatch.setattr(broadcast, "PING_SECONDS", 0.0)
    for turns in range(60):
        connected = asyncio.Event()
        listener = HintListener(
            own_redis.url, channel=CHANNEL, on_hint=lambda _: None, on_connected=connected.set
        )
        listening = asyncio.create_task(listener.run())
        await asyncio.wait_for(connected.wait(), DEADLINE_SECONDS)
        for _ in range(turns):
            await asyncio.sleep(0)
        listening.cancel()
        _, running = await asyncio.wait([listening], timeout=DEADLINE_SECONDS)
        assert not running


@pytest.mark.parametrize("harm", [methodcaller("pause"), methodcaller("stop")], ids=["hanging", "stopped"])
async def test_a_sender_waits_for_its_timeout_at_most(
    own_redis: Redis, harm: Callable[[Redis], None]
) -> None:
    """Before its first connection and with one, again and again; no promotion waits longer for Redis."""
    connected, fresh = (
        HintSender(own_redis.url, channel=CHANNEL, timeout_seconds=SEND_TIMEOUT_SECONDS) for _ in range(2)
    )
    await wait_until(lambda: connected.send(hint(1)), "a connection")
    await asyncio.to_thread(harm, own_redis)
    # Redis does not come back meanwhile: what ends here has ended by the sender's own timeout.
    async with deadline("the end of sending and closing"):
        for one in (connected, connected, fresh):
            assert not await one.send(hint(2))
        for one in (connected, fresh):
            await one.close()
    own_redis.resume()


async def versions_served(settings: Settings, model: str) -> set[str]:
    """The versions that answer twenty users."""
    async with PredictClient(settings) as client:
        responses = await asyncio.gather(
            *(client.predict(model, user_id=f"u{number}", input={"x": number}) for number in range(20))
        )
    return {response.model_version for response in responses}


async def test_a_promotion_is_followed_at_once(
    topics: MakeTopics, database: str, own_redis: Redis, start_worker: StartWorker, tmp_path: Path
) -> None:
    """By the control worker's hint, and back again, without a poll."""
    model = await serve_model(database, tmp_path, canary_percent=20)
    own = {"artifact_dir": str(tmp_path / "artifacts"), "redis_url": own_redis.url}
    settings = await topics(1, postgres_dsn=database, **own, **NO_POLLS, **SURELY)
    start_worker(settings, "control")
    worker = start_worker(settings)
    await worker.logged("hints are received")
    for swaps, (action, version) in enumerate((("promote", "v2"), ("rollback", "v1")), 2):
        await publish(settings, event(action, model, version=version))
        await worker.logged("serving table swapped", times=swaps)
        assert await versions_served(settings, model) == {version}


async def test_without_hints_a_promotion_is_followed_by_the_poll(
    topics: MakeTopics, database: str, own_redis: Redis, start_worker: StartWorker, tmp_path: Path
) -> None:
    """The control worker sends its hints to another Redis, so the worker does not know that they are lost."""
    model = await serve_model(database, tmp_path, canary_percent=20)
    settings = await topics(
        1, postgres_dsn=database, artifact_dir=str(tmp_path / "artifacts"), registry_poll_seconds=0.5
    )
    start_worker(settings, roles="control")
    deaf = settings.model_copy(update={"redis_url": SecretStr(own_redis.url)})
    worker = start_worker(deaf, roles="predict")
    await worker.logged("hints are received")
    await publish(settings, event("promote", model, version="v2"))
    await worker.logged("serving table swapped", times=2)
    assert await versions_served(settings, model) == {"v2"}


async def test_what_was_missed_is_read_when_hints_are_heard_again(
    topics: MakeTopics, database: str, own_redis: Redis, start_worker: StartWorker, tmp_path: Path
) -> None:
    """A promotion while Redis is away has no hint; its return is one."""
    model = await serve_model(database, tmp_path, canary_percent=20)
    own = {"artifact_dir": str(tmp_path / "artifacts"), "redis_url": own_redis.url}
    settings = await topics(1, postgres_dsn=database, **own, **NO_POLLS)
    start_worker(settings, "control")
    worker = start_worker(settings)
    await worker.logged("hints are received")
    await asyncio.to_thread(own_redis.stop)
    await publish(settings, event("promote", model, version="v2"))
    async with topic_log(settings.kafka_bootstrap, settings.topic_promotion_results) as log:
        await log.until(lambda: log.of(settings.topic_promotion_results), "the result, without Redis")
    assert await versions_served(settings, model) == {"v1", "v2"}
    await asyncio.to_thread(own_redis.start)
    await worker.logged("serving table swapped", times=2)
    assert await versions_served(settings, model) == {"v2"}
