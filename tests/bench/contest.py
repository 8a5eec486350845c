"""One round of one contender: its records, its run, its answers checked, its rate.

The rate is taken from outside and alike for all: the output topic keeps the broker's own time of
each append (`LogAppendTime`), read after the run. Nothing but a count of the outputs, ten times a
second, runs beside a contender. The first tenth of the outputs is its start and does not count.
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
from .contenders import Cache, Contender
from .ground import Ground
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
    """What one run of a contender came to; its start is in neither rate nor `cpu_us_per_record`."""

    contender: str
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


class Contest:
    """Runs rounds on one ground; input topics are filled once and used by every round."""

    def __init__(
        self, ground: Ground, broker: Broker, venvs: dict[str, Path], *, report: Callable[[str], None]
    ) -> None:
        self.ground = ground
        self.broker = broker
        self._venvs = venvs
        self._report = report
        self._inputs: dict[tuple[Dialect, int], str] = {}
        self._numbers = itertools.count()

    async def prepare(self) -> None:
        """Make the topics that Headrace wants beside requests and responses."""
        await self.broker.create(DEAD_LETTERS, METRICS)

    async def round(self, contender: Contender) -> Round:
        """One measured run; raises WrongAnswerError when it is not what was asked."""
        if contender.cache is Cache.COLD:
            async with self._redis(contender) as kept:
                await kept.flushdb()
        if contender.cache is Cache.WARM:
            await self._fill_cache(contender)
        async with self._topic() as sink:
            cpu_seconds = await self._run(contender, sink)
            sheet = Sheet(contender, self.ground.model)
            async for output in self.broker.read(sink, await self.broker.count(sink)):
                sheet.add(output)
        sheet.verdict()
        seconds, per_second = rate(sheet.appended_ms)
        return Round(
            contender.name,
            contender.records,
            seconds,
            per_second,
            1e6 * cpu_seconds,
            sheet.cached / contender.records,
        )

    async def _fill_cache(self, contender: Contender) -> None:
        """Run it unmeasured until Redis has the prediction of every input; a cold round left most of them."""
        for _ in range(_FILLS):
            async with self._redis(contender) as kept:
                missing = contender.records - await kept.dbsize()
            if missing <= 0:
                return
            self._report(f"{contender.name}: filling the cache, {missing} are missing")
            async with self._topic() as sink:
                await self._run(contender, sink)

    @asynccontextmanager
    async def warmed_up(self, contender: Contender, records: int) -> AsyncIterator[tuple[str, str, Running]]:
        """A contender that has answered records 0 to `records`: its input, its output and its process."""
        async with self._topic() as source, self._topic() as sink:
            with run(contender, self.ground, self._venvs, source, sink) as running:
                await self._send(contender, source, range(records))
                await self._until(sink, records, running, contender)
                yield source, sink, running

    @asynccontextmanager
    async def _topic(self) -> AsyncIterator[str]:
        topic = f"bench-{next(self._numbers)}"
        await self.broker.create(topic)
        try:
            yield topic
        finally:
            await self.broker.delete(topic)

    async def _run(self, contender: Contender, sink: str) -> float:
        """Run it until it has answered everything; returns the processor seconds a record took."""
        if contender.window is None:
            source = await self._filled(contender)
            with run(contender, self.ground, self._venvs, source, sink) as running:
                return await self._until(sink, contender.records, running, contender)
        async with self._topic() as source:
            with run(contender, self.ground, self._venvs, source, sink) as running:
                probes = await self._probe(contender, source, sink, running)
                return await self._feed(contender, source, sink, running, probes)

    async def _filled(self, contender: Contender) -> str:
        wanted = (contender.dialect, contender.records)
        if wanted not in self._inputs:
            topic = f"bench-in-{contender.dialect}-{contender.records}"
            self._report(f"filling {topic}")
            await self.broker.create(topic)
            await self.broker.fill(
                topic, messages(range(contender.records), contender.dialect), _HEADERS[contender.dialect]
            )
            self._inputs[wanted] = topic
        return self._inputs[wanted]

    async def _until(self, sink: str, wanted: int, running: Running, contender: Contender) -> float:
        """Wait for so many outputs, as long as they come; returns processor seconds a record, after the start."""
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
                    f"{contender.name} {state} at {answered} of {wanted} records:\n{running.log_end}"
                )
            await asyncio.sleep(_POLL_SECONDS)
        return (running.cpu_seconds - start_cpu_seconds) / (answered - start_answered)

    async def _probe(self, contender: Contender, source: str, sink: str, running: Running) -> int:
        """Ask until it answers, for one that reads only what comes after its start; returns its answers."""
        number = contender.records
        while await self.broker.count(sink) == 0:
            if not running.alive:
                raise WrongAnswerError(f"{contender.name} has ended:\n{running.log_end}")
            await self._send(contender, source, range(number, number + 1))
            number += 1
            await asyncio.sleep(_PROBE_SECONDS)
        # Every probe that it is going to answer, it has answered by then.
        await asyncio.sleep(_QUIET_SECONDS)
        return await self.broker.count(sink)

    async def _feed(
        self, contender: Contender, source: str, sink: str, running: Running, probes: int
    ) -> float:
        """Keep `window` records waiting, no more; returns processor seconds a record."""
        assert contender.window is not None
        sent, start_cpu_seconds = 0, running.cpu_seconds
        while sent < contender.records:
            answered = await self.broker.count(sink) - probes
            until = min(answered + contender.window, contender.records)
            if until > sent:
                await self._send(contender, source, range(sent, until))
                sent = until
            elif not running.alive:
                break
            await asyncio.sleep(_FEED_SECONDS)
        await self._until(sink, contender.records + probes, running, contender)
        return (running.cpu_seconds - start_cpu_seconds) / contender.records

    async def _send(self, contender: Contender, source: str, numbers: range) -> None:
        await self.broker.fill(source, messages(numbers, contender.dialect), _HEADERS[contender.dialect])

    def _redis(self, contender: Contender) -> redis.asyncio.Redis:
        return redis.asyncio.Redis.from_url(redis_url(contender, self.ground))
