"""One run of all scenarios: the workers, the traffic, and v2 promoted and rolled back while things break."""

import asyncio
import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from pydantic import SecretStr

from deploy.local.redis import Redis
from schemas.models import PromotionEvent, PromotionResult
from streams.clients.promotion_client import PromotionClient
from streams.config.settings import Settings
from streams.kafka.tail import open_tail
from streams.kafka.topics import administration, plan_topics

from .answers import Model, WrongAnswerError
from .environment import register_model
from .rollback_controls import Controls, StartWorker
from .rollback_figures import (
    ALL_WELL,
    COMMAND,
    CONTROL_KILLED,
    DIRECT,
    HINTS_LOST,
    REDIS_DOWN,
    Run,
    Scenario,
    document,
)
from .rollback_operator import Act, Operator, by_client, by_command, directly
from .rollback_processes import TrafficProcess, WorkerProcess, traffic
from .rollback_traffic import Account, Order, read_account
from .workload import PARTITIONS

PREDICT_WORKERS = 3
WARM_UP = "warm_up"
# How long an operator thinks between two calls. Where workers follow by their polls, a call must come at
# any moment between two of them.
_PAUSE_SECONDS = (0.05, 0.15)
_PAUSE_OVER_A_POLL_SECONDS = (0.05, 1.25)


@dataclass(frozen=True, slots=True)
class Site:
    """A stack with an empty registry and the topics of `settings`, whose Redis is `redis`.

    Nobody but the last control workers uses `other_redis`.
    """

    settings: Settings
    redis: Redis
    other_redis: Redis
    folder: Path
    requests_a_second: int
    inputs: int


@dataclass(frozen=True, slots=True)
class Counts:
    """How often v2 is promoted or rolled back in each scenario."""

    all_well: int
    others: int
    control_killed: int

    @classmethod
    def of(cls, all_well: int) -> Self:
        return cls(all_well, max(1, all_well // 5), max(1, all_well // 20))


async def run(site: Site, counts: Counts, report: Callable[[str], None]) -> dict[str, Any]:
    """The document of figures; raises WrongAnswerError when a request has no answer or a wrong one."""
    settings = site.settings
    await _let_the_broker_stamp(settings)
    environment = await register_model(
        site.folder,
        kafka_bootstrap=settings.kafka_bootstrap,
        postgres_dsn=settings.postgres_dsn.get_secret_value(),
        redis_url=settings.redis_url.get_secret_value(),
    )
    order = Order(
        settings.kafka_bootstrap,
        settings.topic_requests,
        settings.topic_responses,
        site.requests_a_second,
        site.inputs,
        str(site.folder),
    )
    with _workers(site.folder) as start_worker:
        report("starting the workers")
        predictors = [start_worker("predict", settings) for _ in range(PREDICT_WORKERS)]
        controls = Controls(settings, start_worker)
        await asyncio.gather(
            controls.start(), *(worker.logged("hints are received") for worker in predictors)
        )
        async with traffic(order) as sending, Operator(settings, PREDICT_WORKERS) as operator:
            scenes = _Scenes(site, counts, operator, predictors, controls, sending, report)
            await scenes.play()
            report("waiting for the last answers")
            await sending.finish()
        swaps = [worker.swaps() for worker in predictors]
        for worker in predictors:
            await asyncio.to_thread(worker.end)
        await controls.end()
    account, answers = read_account(site.folder)
    check(account, environment.model, site.inputs)
    swapped_ms = {
        epoch: max(swap[epoch] for swap in swaps)
        for epoch in set.intersection(*(set(swap) for swap in swaps))
    }
    figures = document(Run(operator.changes, answers, swapped_ms))
    return figures | {"requests": account.sent, "repeated": account.repeated}


def check(account: Account, model: Model, inputs: int) -> None:
    """PURE. Raises WrongAnswerError for requests without an answer, with an error, or with a wrong one."""
    if account.answered < account.sent:
        raise WrongAnswerError(f"{account.sent - account.answered} of {account.sent} requests have no answer")
    if account.errors:
        raise WrongAnswerError(f"requests are answered by errors: {account.errors}")
    for number, version, predictions in account.samples:
        if not model.versions[version].agrees(number % inputs, predictions):
            raise WrongAnswerError(f"request {number} is answered by {version} with {predictions}")


@dataclass(frozen=True, slots=True)
class _Scenes:
    """The scenarios, one after the other."""

    site: Site
    counts: Counts
    operator: Operator
    predictors: Sequence[WorkerProcess]
    controls: Controls
    sending: TrafficProcess
    report: Callable[[str], None]

    async def play(self) -> None:
        settings, counts = self.site.settings, self.counts
        async with PromotionClient(settings) as client:
            # Ends the canary that is there.
            await self.operator.change(WARM_UP, by_client(client))
            await self._warm_up(by_client(client))
            await self._repeat(ALL_WELL, counts.all_well, by_client(client))
            await self._repeat(DIRECT, counts.others, directly(settings))
            await self._repeat(COMMAND, counts.others, by_command(settings))
            await self._kill_controls(client)
            await self._stop_redis(by_client(client))
            await self._warm_up(by_client(client))
        await self._lose_hints()

    async def _repeat(
        self,
        scenario: Scenario,
        count: int,
        act: Act,
        pause_seconds: tuple[float, float] = _PAUSE_SECONDS,
    ) -> None:
        self.report(f"{scenario.title}: {count} times")
        for _ in range(count):
            await asyncio.sleep(random.uniform(*pause_seconds))
            await self.operator.change(scenario.name, act)

    async def _warm_up(self, act: Act) -> None:
        """Have the predictions of both versions in the cache, and end with the version that there was."""
        self.report("warming the cache")
        for _ in range(2):
            await self.sending.warm()
            await self.operator.change(WARM_UP, act)

    async def _kill_controls(self, client: PromotionClient) -> None:
        """Again and again the one that decides dies with the event before it."""
        settings, count = self.site.settings, self.counts.control_killed
        self.report(f"{CONTROL_KILLED.title}: {count} times")
        async with open_tail(settings, settings.topic_promotions) as events:
            for _ in range(count):
                victim = await self.controls.deciding(client)

                async def act(
                    wanted: PromotionEvent, victim: WorkerProcess = victim
                ) -> tuple[PromotionResult, str]:
                    # It must not be quicker than the kill.
                    victim.pause()
                    deciding = asyncio.create_task(client.decide(wanted))
                    mark = wanted.event_id.encode()
                    while not any(mark in (record.value or b"") for record in await events.next_records()):
                        pass
                    await asyncio.to_thread(victim.kill)
                    decided = await deciding
                    return decided.result, decided.via

                await self.operator.change(CONTROL_KILLED.name, act)
                await self.controls.replace(victim)

    async def _stop_redis(self, act: Act) -> None:
        await asyncio.to_thread(self.site.redis.stop)
        await self._repeat(REDIS_DOWN, self.counts.others, act, _PAUSE_OVER_A_POLL_SECONDS)
        heard = [worker.count("hints are received") for worker in self.predictors]
        await asyncio.to_thread(self.site.redis.start)
        await asyncio.gather(
            *(
                worker.logged("hints are received", times=times + 1)
                for worker, times in zip(self.predictors, heard, strict=True)
            )
        )

    async def _lose_hints(self) -> None:
        """Control workers and operator send their hints to a Redis without listeners."""
        elsewhere = self.site.settings.model_copy(update={"redis_url": SecretStr(self.site.other_redis.url)})
        await self.controls.end()
        self.controls.settings = elsewhere
        await self.controls.start()
        async with PromotionClient(elsewhere) as client:
            await self._repeat(HINTS_LOST, self.counts.others, by_client(client), _PAUSE_OVER_A_POLL_SECONDS)


@contextmanager
def _workers(folder: Path) -> Iterator[StartWorker]:
    """What starts workers; none of them outlives the block."""
    started: list[WorkerProcess] = []
    numbers = itertools.count(1)

    def start(role: str, settings: Settings) -> WorkerProcess:
        started.append(WorkerProcess(f"{role}-{next(numbers)}", role, settings, folder))
        return started[-1]

    try:
        yield start
    finally:
        for worker in started:
            worker.kill()


async def _let_the_broker_stamp(settings: Settings) -> None:
    """Have responses carry the time at which the broker takes them, which no worker sets."""
    (plan,) = (plan for plan in plan_topics(settings, PARTITIONS) if plan.name == settings.topic_responses)
    config = {**plan.config, "message.timestamp.type": "LogAppendTime"}
    async with administration(settings) as admin:
        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, plan.name, configs=config)])
