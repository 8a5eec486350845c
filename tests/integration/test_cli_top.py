"""`headrace top` on a real broker, with deltas written by the test."""

import asyncio
import itertools
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import orjson
from aiokafka import AIOKafkaProducer

from streams.config.settings import Settings
from tests.support.deadline import DEADLINE_SECONDS
from tests.support.metrics.deltas import delta
from tests.support.stack.command import HEADRACE, environment, headrace
from tests.support.stack.services import MakeTopics


@asynccontextmanager
async def metrics(settings: Settings) -> AsyncIterator[None]:
    """Deltas every 50 ms, each written twice and followed by a record that is not a delta."""
    producer = AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap)
    await producer.start()

    async def write() -> None:
        for seq in itertools.count():
            counted = delta(
                seq,
                at=datetime.now(UTC),
                latencies=(1.0,) * 9 + (100.0,),
                ok=9,
                errors={"INTERNAL": 1},
                cache_hits=3,
                cache_misses=1,
            )
            value = counted.model_dump_json().encode()
            for _ in range(2):
                await producer.send_and_wait(settings.topic_metrics, value, key=b"m")
            await producer.send_and_wait(settings.topic_metrics, b"no delta", key=b"m")
            await asyncio.sleep(0.05)

    writing = asyncio.create_task(write())
    try:
        yield
    finally:
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        await producer.stop()


async def test_json_lines_until_interrupted(topics: MakeTopics) -> None:
    """One object a second; Ctrl-C is the way to end it."""
    settings = await topics(2)
    async with metrics(settings), asyncio.timeout(DEADLINE_SECONDS):
        process = await asyncio.create_subprocess_exec(
            HEADRACE, "top", "--json", stdout=asyncio.subprocess.PIPE, env=environment(settings)
        )
        assert process.stdout is not None
        lines = [orjson.loads(await process.stdout.readline()) for _ in range(2)]
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 0
    (row,) = lines[-1]["versions"]
    assert (row["model_name"], row["model_version"], row["workers"]) == ("m", "v1", 1)
    assert row["requests_per_second"] > 0
    assert 0.9 <= row["p50_ms"] <= 1.1
    assert row["errors"]["INTERNAL"] > 0
    assert lines[-1]["missing_deltas"] == 0
    assert lines[-1]["unreadable_records"] > 0


async def test_it_ends_by_itself_after_the_seconds_asked_for(topics: MakeTopics) -> None:
    """One line for each second, and no more."""
    settings = await topics(1)
    ended = await headrace("top", "--json", "--seconds", "3", settings=settings)
    assert (ended.code, len(ended.documents)) == (0, 3)


async def test_one_model_can_be_chosen(topics: MakeTopics) -> None:
    """Another one has no rows."""
    settings = await topics(1)
    async with metrics(settings):
        mine, other = await asyncio.gather(
            headrace("top", "m", "--once", "--json", settings=settings),
            headrace("top", "other", "--once", "--json", settings=settings),
        )
    assert [row["model_name"] for row in mine.documents[0]["versions"]] == ["m"]
    assert other.documents[0]["versions"] == []


async def test_once_prints_one_table(topics: MakeTopics) -> None:
    """The table for people, without colours where there is no terminal."""
    settings = await topics(1)
    async with metrics(settings):
        ended = await headrace("top", "--once", settings=settings)
    assert (ended.code, ended.stderr) == (0, "")
    heading, row, note = ended.stdout.splitlines()
    assert heading.split()[:3] == ["model", "version", "rev"]
    assert row.split()[:3] == ["m", "v1", "1"]
    assert "75.0%" in row
    assert "could not be read" in note
    assert "\x1b" not in ended.stdout


async def test_silence_says_what_to_check(topics: MakeTopics) -> None:
    """Without metrics the view says where it looks and what is probably missing."""
    settings = await topics(1)
    ended = await headrace("top", "--once", "--seconds", "1", settings=settings)
    assert ended.code == 0
    assert f"Nothing arrives on {settings.topic_metrics} at {settings.kafka_bootstrap}" in ended.stdout
    assert "headrace worker" in ended.stdout
