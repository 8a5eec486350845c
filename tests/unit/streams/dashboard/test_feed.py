"""streams/dashboard/feed.py: one reading for all open pages, and none while no page is open."""

import asyncio
from collections.abc import Iterable
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime
from typing import Any, cast

import orjson
import pytest

from schemas.errors import RegistryUnavailableError
from streams.dashboard import feed as feed_module
from streams.dashboard.feed import Feed
from streams.dashboard.registry_reader import PageReader
from streams.dashboard.state import Seen
from tests.support.deadline import DEADLINE_SECONDS


class CountingReader:
    """Stands for PostgreSQL: counts how often it is read, and for which pages."""

    def __init__(self) -> None:
        self.readings: list[frozenset[tuple[str, ...]]] = []
        self.failure: Exception | None = None

    async def read(self, wanted: Iterable[tuple[str, ...]]) -> Seen:
        self.readings.append(frozenset(wanted))
        await asyncio.sleep(0)
        if self.failure is not None:
            raise self.failure
        return Seen(datetime.now(UTC), len(self.readings), ["m"], {}, [], [])


@pytest.fixture
def reader() -> CountingReader:
    return CountingReader()


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "READ_EACH_SECONDS", 0.0)


@asynccontextmanager
async def running(reader: CountingReader) -> Any:
    feed = Feed(cast("PageReader", reader), may_promote=True)
    reading = asyncio.create_task(feed.run_reading_loop())
    async with asyncio.timeout(DEADLINE_SECONDS):
        yield feed
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)


async def turns() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


async def test_it_reads_only_while_somebody_looks(reader: CountingReader) -> None:
    async with running(reader) as feed:
        await turns()
        assert reader.readings == []
        async with aclosing(feed.documents(())) as documents:
            first, second = [orjson.loads(await anext(documents)) for _ in range(2)]
            assert first["may_promote"]
            assert second["epoch"] > first["epoch"]
        await turns()
        count = len(reader.readings)
        await turns()
        assert len(reader.readings) == count


async def test_all_who_look_share_a_reading_that_has_what_each_of_them_needs(reader: CountingReader) -> None:
    async with (
        running(reader) as feed,
        aclosing(feed.documents(())) as one,
        aclosing(feed.documents(("m",))) as other,
    ):
        await anext(one)
        for _ in range(3):
            epochs = [orjson.loads(each)["epoch"] for each in await asyncio.gather(anext(one), anext(other))]
            assert frozenset({(), ("m",)}) == reader.readings[epochs[1] - 1]
    assert reader.readings[0] == frozenset({()})


@pytest.mark.parametrize(
    "failure",
    [RegistryUnavailableError("PostgreSQL does not answer"), TimeoutError(), ValueError("a newer release's")],
)
async def test_an_outage_is_told_and_ends(reader: CountingReader, failure: Exception) -> None:
    """Nor does an unexpected error: the monitor goes on when its page fails."""
    async with running(reader) as feed, aclosing(feed.documents(())) as documents:
        assert await anext(documents) is not None
        reader.failure = failure
        while await anext(documents) is not None:
            pass
        assert await anext(documents) is None
        reader.failure = None
        while await anext(documents) is None:
            pass
