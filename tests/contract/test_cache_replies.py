"""What the cache makes of a Redis that answers in ways the real one here does not."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import hiredis
import pytest

from tests.support.deadline import DEADLINE_SECONDS
from workers.cache import availability
from workers.cache.redis_cache import PredictionCache

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


async def test_one_lost_call_ends_all_that_wait() -> None:
    """A call that waits for a hung answer ends with the first that fails, far before its timeout."""
    hanging = asyncio.Event()

    def script(command: Command) -> bytes | None:
        if command == [b"MGET", b"hangs"]:
            hanging.set()
            return None
        return b""

    async with asyncio.timeout(DEADLINE_SECONDS), scripted_redis(script) as url:
        cache = PredictionCache(url, timeout_seconds=60)
        waiting = asyncio.create_task(cache.get_many([b"hangs"]))
        await hanging.wait()
        assert await cache.get_many([b"closes"]) == [None]
        assert await waiting == [None]
        await cache.close()


async def test_a_probe_without_an_answer_is_the_only_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long its timeout is, and however often somebody asks meanwhile."""
    monkeypatch.setattr(availability, "RETRY_SECONDS", 0.01)
    probes: list[Command] = []
    asked = asyncio.Event()

    def script(command: Command) -> bytes | None:
        if command == [b"MGET", b"closes"]:
            return b""
        probes.append(command)
        asked.set()
        return None

    loop = asyncio.get_running_loop()
    async with asyncio.timeout(DEADLINE_SECONDS), scripted_redis(script) as url:
        lost = PredictionCache(url, timeout_seconds=60)
        assert await lost.get_many([b"closes"]) == [None]
        while not asked.is_set():
            assert await lost.get_many([b"k"]) == [None]
            await asyncio.sleep(0)
        end = loop.time() + 0.2
        while loop.time() < end:
            assert await lost.get_many([b"k"]) == [None]
            await asyncio.sleep(0)
        await lost.close()
    assert len(probes) == 1


async def test_msetex_writes_all_at_once() -> None:
    """Redis 8.4 gets one MSETEX with one expiry for all."""
    commands: list[Command] = []

    def script(command: Command) -> bytes:
        commands.append(command)
        return b":1\r\n"

    async with scripted_redis(script) as url:
        cache = PredictionCache(url, timeout_seconds=60)
        await cache.set_many([(b"k1", b"v1"), (b"k2", b"v2")], ttl_seconds=300)
        assert cache.available
        await cache.close()
    assert commands == [[b"MSETEX", b"2", b"k1", b"v1", b"k2", b"v2", b"EX", b"300"]]


async def test_older_servers_get_a_script_and_are_asked_once() -> None:
    """Without MSETEX every later write is one EVALSHA; an unknown script is sent in full once."""
    commands: list[Command] = []

    def script(command: Command) -> bytes:
        commands.append(command)
        if command[0] == b"MSETEX":
            return b"-ERR unknown command 'MSETEX', with args beginning with: '1' 'k' 'v' \r\n"
        if command[0] == b"EVALSHA" and len(commands) == 2:
            return b"-NOSCRIPT No matching script. Please use EVAL.\r\n"
        return b"$-1\r\n"

    async with scripted_redis(script) as url:
        cache = PredictionCache(url, timeout_seconds=60)
        for _ in range(2):
            await cache.set_many([(b"k", b"v")], ttl_seconds=300)
        await cache.close()
    assert [command[0] for command in commands] == [b"MSETEX", b"EVALSHA", b"EVAL", b"EVALSHA"]
    assert commands[-1][2:] == [b"1", b"k", b"v", b"300"]


async def test_garbage_is_a_lost_cache() -> None:
    """A server that does not speak Redis raises nothing; the cache is lost."""
    async with scripted_redis(lambda _: b"HTTP/1.1 400 Bad Request\r\n\r\n") as url:
        cache = PredictionCache(url)
        assert await cache.get_many([b"k"]) == [None]
        assert not cache.available
        await cache.close()


@pytest.mark.parametrize(
    "reply", [b"-LOADING Redis is loading the dataset\r\n", b"-NOPERM no permission\r\n"]
)
async def test_a_server_that_refuses_reads_is_a_lost_cache(reply: bytes) -> None:
    """Loading its data or without permission, Redis is left alone."""
    async with scripted_redis(lambda _: reply) as url:
        cache = PredictionCache(url)
        assert await cache.get_many([b"k"]) == [None]
        assert not cache.available
        await cache.close()
