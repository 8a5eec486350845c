"""The cache on a scripted Redis, which answers as the real one of the tests does not."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import hiredis
import pytest

from tests.support.deadline import DEADLINE_SECONDS
from workers.cache import availability
from workers.cache.bounded_replies import MAX_REPLY_BYTES
from workers.cache.redis_cache import PredictionCache
from workers.cache.sealing import Sealer

NAMESPACE = b"n:"
SECRET = bytes(32)
VALUE_BYTES, PART_BYTES = 512 << 20, 1 << 20
Command = list[bytes]
# A reply in RESP; None never answers, and b"" closes the connection.
Script = Callable[[Command], bytes | None]


@asynccontextmanager
async def scripted_redis(script: Script) -> AsyncIterator[str]:
    """The URL of a server that answers each command as the script says."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        parser = hiredis.Reader(notEnoughData=b"")
        try:
            while data := await reader.read(65536):
                parser.feed(data)
                while command := parser.gets(False):
                    if command[0] == b"CLIENT":
                        writer.write(b"+OK\r\n")
                        continue
                    reply = script(command)
                    if reply == b"":
                        return
                    if reply is not None:
                        writer.write(reply)
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()
        yield f"redis://{host}:{port}"


@asynccontextmanager
async def scripted_cache(script: Script, *, timeout_seconds: float = 60) -> AsyncIterator[PredictionCache]:
    """A cache on a server that answers each command as the script says."""
    async with scripted_redis(script) as url:
        cache = PredictionCache(url, namespace=NAMESPACE, secret=SECRET, timeout_seconds=timeout_seconds)
        try:
            yield cache
        finally:
            await cache.close()


async def test_one_lost_call_ends_all_waiting_calls() -> None:
    """A call without an answer ends with the first call that fails, long before its timeout."""
    hanging = asyncio.Event()

    def script(command: Command) -> bytes | None:
        if command == [b"MGET", b"n:hangs"]:
            hanging.set()
            return None
        return b""

    async with asyncio.timeout(DEADLINE_SECONDS), scripted_cache(script) as cache:
        waiting = asyncio.create_task(cache.get_many([b"hangs"]))
        await hanging.wait()
        assert await cache.get_many([b"closes"]) == [None]
        assert await waiting == [None]


async def test_a_probe_without_an_answer_is_the_only_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever its timeout, and however many reads are wanted meanwhile."""
    monkeypatch.setattr(availability, "RETRY_SECONDS", 0.01)
    probes: list[Command] = []
    asked = asyncio.Event()

    def script(command: Command) -> bytes | None:
        if command == [b"MGET", b"n:closes"]:
            return b""
        probes.append(command)
        asked.set()
        return None

    loop = asyncio.get_running_loop()
    async with asyncio.timeout(DEADLINE_SECONDS), scripted_cache(script) as lost:
        assert await lost.get_many([b"closes"]) == [None]
        while not asked.is_set():
            assert await lost.get_many([b"k"]) == [None]
            await asyncio.sleep(0)
        end = loop.time() + 0.2
        while loop.time() < end:
            assert await lost.get_many([b"k"]) == [None]
            await asyncio.sleep(0)
    assert len(probes) == 1


async def test_msetex_writes_all_at_once() -> None:
    """Redis 8.4 gets one MSETEX with one expiry for all."""
    commands: list[Command] = []
    sealed = Sealer(SECRET).seal([b"k1", b"k2"], [b"v1", b"v2"])

    def script(command: Command) -> bytes:
        commands.append(command)
        return b":1\r\n"

    async with scripted_cache(script) as cache:
        await cache.set_many([(b"k1", b"v1"), (b"k2", b"v2")], ttl_seconds=300)
        assert cache.available
    assert commands == [[b"MSETEX", b"2", b"n:k1", sealed[0], b"n:k2", sealed[1], b"EX", b"300"]]


async def test_older_servers_get_a_script() -> None:
    """MSETEX is tried once; then each write is one EVALSHA, and an unknown script is sent once with EVAL."""
    commands: list[Command] = []

    def script(command: Command) -> bytes:
        commands.append(command)
        if command[0] == b"MSETEX":
            return b"-ERR unknown command 'MSETEX', with args beginning with: '1' 'k' 'v' \r\n"
        if command[0] == b"EVALSHA" and len(commands) == 2:
            return b"-NOSCRIPT No matching script. Please use EVAL.\r\n"
        return b"$-1\r\n"

    async with scripted_cache(script) as cache:
        for _ in range(2):
            await cache.set_many([(b"k", b"v")], ttl_seconds=300)
    assert [command[0] for command in commands] == [b"MSETEX", b"EVALSHA", b"EVAL", b"EVALSHA"]
    assert commands[-1][2:] == [b"1", b"n:k", *Sealer(SECRET).seal([b"k"], [b"v"]), b"300"]


def bulk(size_bytes: int) -> bytes:
    return b"$%d\r\n%b\r\n" % (size_bytes, bytes(size_bytes))


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(b"*2\r\n" + bulk(17 << 20) * 2, id="large together"),
        pytest.param(b"*2\r\n:1\r\n*1\r\n:2\r\n", id="other types"),
        pytest.param(b"*1\r\n$-1\r\n", id="too few values"),
        pytest.param(b"*3\r\n" + b"$-1\r\n" * 3, id="too many values"),
        pytest.param(b":7\r\n", id="no values"),
    ],
)
async def test_replies_that_no_cache_has_are_misses(reply: bytes) -> None:
    """They are counted, and the cache stays in use."""
    (sealed,) = Sealer(SECRET).seal([b"good"], [b"v"])
    assert sealed is not None

    def script(command: Command) -> bytes:
        return b"*1\r\n$%d\r\n%b\r\n" % (len(sealed), sealed) if command[1:] == [b"n:good"] else reply

    async with asyncio.timeout(DEADLINE_SECONDS), scripted_cache(script) as cache:
        assert await cache.get_many([b"one", b"two"]) == [None, None]
        assert (cache.available, cache.rejected_values) == (True, 2)
        assert await cache.get_many([b"good"]) == [b"v"]


async def test_memory_is_not_taken_for_one_value_of_half_a_gigabyte() -> None:
    """The connection is closed while the server still sends."""
    sent_bytes = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent_bytes
        while b"MGET" not in await reader.read(65536):
            writer.write(b"+OK\r\n" * 2)
        writer.write(b"*1\r\n$%d\r\n" % VALUE_BYTES)
        with suppress(ConnectionError):
            while sent_bytes < VALUE_BYTES:
                writer.write(bytes(PART_BYTES))
                await writer.drain()
                sent_bytes += PART_BYTES
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with asyncio.timeout(DEADLINE_SECONDS), server:
        host, port = server.sockets[0].getsockname()
        cache = PredictionCache(
            f"redis://{host}:{port}", namespace=NAMESPACE, secret=SECRET, timeout_seconds=DEADLINE_SECONDS
        )
        assert await cache.get_many([b"k"]) == [None]
        await cache.close()
    # And what the sockets hold.
    assert sent_bytes < 2 * MAX_REPLY_BYTES


async def test_a_server_of_another_protocol_makes_the_cache_unavailable() -> None:
    """No call raises."""
    async with scripted_cache(lambda _: b"HTTP/1.1 400 Bad Request\r\n\r\n") as cache:
        assert await cache.get_many([b"k"]) == [None]
        assert not cache.available


@pytest.mark.parametrize(
    "reply", [b"-LOADING Redis is loading the dataset\r\n", b"-NOPERM no permission\r\n"]
)
async def test_refused_reads_make_the_cache_unavailable(reply: bytes) -> None:
    """While Redis loads its data, or without permission."""
    async with scripted_cache(lambda _: reply) as cache:
        assert await cache.get_many([b"k"]) == [None]
        assert not cache.available
        await cache.close()
