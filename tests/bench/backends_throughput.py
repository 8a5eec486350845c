"""Examples a second of one model server: asked directly, with and without batches, and by Headrace.

All are closed loops in this process: a caller asks again when it is answered. A direct client has an httpx
client for each call in flight, which is the fastest way to use httpx for many calls at once.
"""

import asyncio
import itertools
import time
from bisect import bisect_left
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

import httpx

from schemas.errors import AnswerError
from schemas.models import ModelSpec
from streams.serving.request_metrics import MetricsRegistry
from streams.serving.route_table import ServedVersion
from streams.serving.served_version import served_version
from tests.support.models.served_versions import outcomes_of
from workers.backends.factory import remote_backend
from workers.network.endpoints import Outbound

from .answers import WrongAnswerError
from .backends_figures import Throughput
from .backends_targets import MODEL, Target

# As many as a version's calls by default.
CALLERS = 32
Grid = Sequence[tuple[int, int]]
GRID: Grid = tuple(itertools.product((32, 128, 512), (1, 4, 16)))
GRID_OF_SINGLE_CALLS: Grid = tuple((1, calls) for calls in (8, 16, 32))
# What a slice misses.
GROUP = 16
LEAST_GROUPS = 16
SETTLING_SHARE = 0.2
_GIVE_UP_SECONDS = 30.0
_IDLE_SECONDS = 2.0

Ask = Callable[[int], Awaitable[None]]
"""Have the examples answered that begin with a number."""


@dataclass(frozen=True, slots=True)
class Way:
    """`callers` that ask for `group` examples at a time."""

    group: int
    callers: int

    @property
    def waiting(self) -> int:
        return self.group * self.callers


class Loads:
    """The loads of one target; whoever asks keeps its connections, and Headrace what it has learnt."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._served: ServedVersion | None = None
        self._clients: list[httpx.AsyncClient] = []
        self._numbers = itertools.count(0, max(batch for batch, _ in GRID))

    async def best_batched(self, grid: Grid, seconds: float, sweeps: int) -> Way:
        """The direct client's best way to ask, by the sum of several sweeps over a grid of batches and calls."""
        if not self._target.batch_in_a_call:
            grid = GRID_OF_SINGLE_CALLS
        reached = dict.fromkeys(grid, 0.0)
        for _ in range(sweeps):
            for group, callers in grid:
                reached[group, callers] += await self.directly(Way(group, callers), seconds)
        return Way(*max(reached, key=reached.__getitem__))

    async def serve(self, max_batch: int) -> None:
        """Have a version, with its backend, as a worker makes it; comes before `by_headrace`."""
        spec = ModelSpec.model_validate(self._target.spec("v1") | {"max_batch": max_batch})
        backend = remote_backend(spec, Outbound())
        meter = MetricsRegistry("bench", "bench", datetime.now(UTC)).meter(MODEL, spec.version)
        self._served = served_version(MODEL, spec, backend, meter)
        await backend.warm()

    async def round(self, best: Way, seconds: float) -> Throughput:
        """One of each, one after the other."""
        batch_in_a_call = self._target.batch_in_a_call
        return Throughput(
            await self.directly(Way(1, CALLERS), seconds) if batch_in_a_call else None,
            await self.directly(best, seconds),
            await self.by_headrace(best.waiting, seconds),
        )

    async def directly(self, way: Way, seconds: float) -> float:
        """Examples a second of a client that makes a call for each group."""
        url, target = self._target.call_url, self._target

        async def ask_by(client: httpx.AsyncClient, first: int) -> None:
            response = await client.post(url, content=target.write(target.examples(first, way.group)))
            if response.status_code != httpx.codes.OK or len(target.read(response.content)) != way.group:
                raise WrongAnswerError(f"{url} answers {response.status_code}: {response.text[:500]}")

        self._clients += [direct_client() for _ in range(way.callers - len(self._clients))]
        asks = [partial(ask_by, client) for client in self._clients[: way.callers]]
        return await self._per_second(asks, way.group, seconds)

    async def by_headrace(self, waiting: int, seconds: float) -> float:
        """Examples a second through a version's dispatcher, with this many waiting at once."""
        assert self._served is not None
        examples, dispatcher = self._target.examples, self._served.dispatcher
        # With more than one example in a group, calls stand idle while the group waits for its last answer.
        group = max(1, min(GROUP, waiting // LEAST_GROUPS)) if self._target.batch_in_a_call else 1

        async def ask(first: int) -> None:
            outcomes = await outcomes_of(dispatcher, examples(first, group))
            for outcome in outcomes:
                if isinstance(outcome, AnswerError):
                    raise WrongAnswerError(f"{self._target.call_url}: {outcome}")

        return await self._per_second([ask] * (waiting // group), group, seconds)

    async def close(self) -> None:
        for client in self._clients:
            await client.aclose()
        if self._served is not None:
            await self._served.dispatcher.close()

    async def _per_second(self, asks: Sequence[Ask], group: int, seconds: float) -> float:
        began = time.perf_counter()
        start, end = began + SETTLING_SHARE * seconds, began + (1 + SETTLING_SHARE) * seconds
        answered: list[float] = []

        async def ask_again(ask: Ask) -> None:
            now = began
            while now < end:
                await ask(next(self._numbers))
                now = time.perf_counter()
                answered.append(now)

        try:
            async with asyncio.timeout(seconds + _GIVE_UP_SECONDS), asyncio.TaskGroup() as callers:
                for ask in asks:
                    callers.create_task(ask_again(ask))
        except* (httpx.HTTPError, TimeoutError) as errors:
            raise WrongAnswerError(f"{self._target.call_url}: {errors.exceptions[0]!r}") from None
        except* WrongAnswerError as errors:
            raise errors.exceptions[0] from None
        return group * per_second(answered, start, end)


def per_second(answered: Sequence[float], start: float, end: float) -> float:
    """PURE. Answers a second, given when each came, in order; at least one after the end.

    From the first after `start` to the first after `end`, so that none that was under way is half counted. When
    these are the same, a second is too short to measure, and 0 is returned.
    """
    first = answered[bisect_left(answered, start)]
    last = answered[bisect_left(answered, end)]
    return sum(first < at <= last for at in answered) / (last - first) if last > first else 0.0


def direct_client() -> httpx.AsyncClient:
    """A client with one connection, without what an environment adds."""
    return httpx.AsyncClient(
        headers={"content-type": "application/json"},
        # Servers close what idles for longer.
        limits=httpx.Limits(max_connections=1, keepalive_expiry=_IDLE_SECONDS),
        timeout=_GIVE_UP_SECONDS,
        trust_env=False,
    )


@asynccontextmanager
async def loads(target: Target) -> AsyncIterator[Loads]:
    """Loads of a target; their connections end with the block."""
    made = Loads(target)
    try:
        yield made
    finally:
        await made.close()
