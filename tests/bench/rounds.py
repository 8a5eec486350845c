"""One round of one competitor: its records, its run, its answers checked, its rate.

The rate is taken from outside and alike for all: the output topic keeps the broker's own time of
each append (`LogAppendTime`), read after the run. Nothing but a count of the outputs, ten times a
second, runs beside a competitor. The first tenth of the outputs is its start and does not count.
"""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import redis.asyncio

from .answers import Sheet, WrongAnswerError
from .broker import Broker
from .competitors import Cache, Competitor
from .environment import Environment
from .running import DEAD_LETTERS, METRICS, Running, redis_url, run
from .workload import MODEL_NAME, Dialect, messages

START_SHARE = 0.1
_POLL_SECONDS = 0.1
_STALL_SECONDS = 60.0
_FILLS = 3
_FEED_SECONDS = 0.01
_PROBE_SECONDS = 0.2
_QUIET_SECONDS = 1.0
_HEADERS = {Dialect.PREDICT: (), Dialect.OPEN_INFERENCE: (("mlserver-model", MODEL_NAME.encode()),)}


@dataclass(frozen=True, slots=True)
class Round:
    """The figures of one run of a competitor; neither the rate nor `cpu_us_per_record` includes its start."""

    competitor: str
    records: int
    seconds: float
    records_per_second: float
    cpu_us_per_record: float
    cached_share: float


def rate(appended_ms: list[int]) -> tuple[float, float]:
    """PURE. Seconds from the end of the start to the last output, and outputs a second in them."""
    times = sorted(appended_ms)
    started = int(len(times) * START_SHARE)
    # The broker's clock ticks in milliseconds.
    seconds = max(times[-1] - times[started], 1) / 1000
    return seconds, (len(times) - 1 - started) / seconds


class RoundRunner:
    """Runs rounds on one environment; input topics are filled once and used by every round."""

    def __init__(
        self,
        environment: Environment,
        broker: Broker,
        venvs: dict[str, Path],
        *,
        report: Callable[[str], None],
    ) -> None:
        self.environment = environment
        self.broker = broker
        self._venvs = venvs
        self._report = report
        self._inputs: dict[tuple[Dialect, int], str] = {}
        self._numbers = itertools.count()

    async def prepare(self) -> None:
        """Create the topics that Headrace needs beside requests and responses."""
        await self.broker.create(DEAD_LETTERS, METRICS)

    async def round(self, competitor: Competitor) -> Round:
        """One measured run; raises WrongAnswerError when it is not what was asked."""
        if competitor.cache is Cache.COLD:
            async with self._redis(competitor) as kept:
                await kept.flushdb()
        if competitor.cache is Cache.WARM:
            await self._fill_cache(competitor)
        async with self._topic() as sink:
            cpu_seconds = await self._run(competitor, sink)
            sheet = Sheet(competitor, self.environment.model)
            async for output in self.broker.read(sink, await self.broker.count(sink)):
                sheet.add(output)
        sheet.check()
        seconds, per_second = rate(sheet.appended_ms)
        return Round(
            competitor.name,
            competitor.records,
            seconds,
            per_second,
            1e6 * cpu_seconds,
            sheet.cached / competitor.records,
        )

    async def _fill_cache(self, competitor: Competitor) -> None:
        """Run it unmeasured until Redis has the prediction of every input; a cold round left most of them."""
        for _ in range(_FILLS):
            async with self._redis(competitor) as kept:
                missing = competitor.records - await kept.dbsize()
            if missing <= 0:
                return
            self._report(f"{competitor.name}: filling the cache, {missing} are missing")
            async with self._topic() as sink:
                await self._run(competitor, sink)

    @asynccontextmanager
    async def warmed_up(
        self, competitor: Competitor, records: int
    ) -> AsyncIterator[tuple[str, str, Running]]:
        """A competitor that has answered records 0 to `records`: its input, its output and its process."""
        async with self._topic() as source, self._topic() as sink:
            with run(competitor, self.environment, self._venvs, source, sink) as running:
                await self._send(competitor, source, range(records))
                await self._until(sink, records, running, competitor)
                yield source, sink, running

    @asynccontextmanager
    async def _topic(self) -> AsyncIterator[str]:
        topic = f"bench-{next(self._numbers)}"
        await self.broker.create(topic)
        try:
            yield topic
        finally:
            await self.broker.delete(topic)

    async def _run(self, competitor: Competitor, sink: str) -> float:
        """Run it until it has answered everything; returns the processor seconds a record took."""
        if competitor.window is None:
            source = await self._filled(competitor)
            with run(competitor, self.environment, self._venvs, source, sink) as running:
                return await self._until(sink, competitor.records, running, competitor)
        async with self._topic() as source:
            with run(competitor, self.environment, self._venvs, source, sink) as running:
                probes = await self._probe(competitor, source, sink, running)
                return await self._feed(competitor, source, sink, running, probes)

    async def _filled(self, competitor: Competitor) -> str:
        wanted = (competitor.dialect, competitor.records)
        if wanted not in self._inputs:
            topic = f"bench-in-{competitor.dialect}-{competitor.records}"
            self._report(f"filling {topic}")
            await self.broker.create(topic)
            await self.broker.fill(
                topic, messages(range(competitor.records), competitor.dialect), _HEADERS[competitor.dialect]
            )
            self._inputs[wanted] = topic
        return self._inputs[wanted]

    async def _until(self, sink: str, wanted: int, running: Running, competitor: Competitor) -> float:
        """Wait for `wanted` outputs, as long as they keep coming; return processor seconds a record, after the start."""
        start_cpu_seconds, start_answered = 0.0, 0
        answered, moved = 0, time.monotonic()
        while answered < wanted:
            count = await self.broker.count(sink)
            if count != answered:
                answered, moved = count, time.monotonic()
            if answered < START_SHARE * wanted:
                start_cpu_seconds, start_answered = running.cpu_seconds, answered
            if not running.alive or time.monotonic() - moved > _STALL_SECONDS:
                state = "stands still" if running.alive else "has ended"
                raise WrongAnswerError(
                    f"{competitor.name} {state} at {answered} of {wanted} records:\n{running.log_end}"
                )
            await asyncio.sleep(_POLL_SECONDS)
        return (running.cpu_seconds - start_cpu_seconds) / (answered - start_answered)

    async def _probe(self, competitor: Competitor, source: str, sink: str, running: Running) -> int:
        """Ask until it answers, for one that reads only what comes after its start; returns its answers."""
        number = competitor.records
        while await self.broker.count(sink) == 0:
            if not running.alive:
                raise WrongAnswerError(f"{competitor.name} has ended:\n{running.log_end}")
            await self._send(competitor, source, range(number, number + 1))
            number += 1
            await asyncio.sleep(_PROBE_SECONDS)
        # Every probe that it is going to answer, it has answered by then.
        await asyncio.sleep(_QUIET_SECONDS)
        return await self.broker.count(sink)

    async def _feed(
        self, competitor: Competitor, source: str, sink: str, running: Running, probes: int
    ) -> float:
        """Keep `window` records waiting, no more; returns processor seconds a record."""
        assert competitor.window is not None
        sent, start_cpu_seconds = 0, running.cpu_seconds
        while sent < competitor.records:
            answered = await self.broker.count(sink) - probes
            until = min(answered + competitor.window, competitor.records)
            if until > sent:
                await self._send(competitor, source, range(sent, until))
                sent = until
            elif not running.alive:
                break
            await asyncio.sleep(_FEED_SECONDS)
        await self._until(sink, competitor.records + probes, running, competitor)
        return (running.cpu_seconds - start_cpu_seconds) / competitor.records

    async def _send(self, competitor: Competitor, source: str, numbers: range) -> None:
        await self.broker.fill(source, messages(numbers, competitor.dialect), _HEADERS[competitor.dialect])

    def _redis(self, competitor: Competitor) -> redis.asyncio.Redis:
        return redis.asyncio.Redis.from_url(redis_url(competitor, self.environment))
