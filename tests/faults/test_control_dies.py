"""A control worker dies at any moment of a promotion: each event is applied once, and its result and hint come."""

import asyncio
import os
from collections import defaultdict
from collections.abc import Awaitable, Callable

import asyncpg
import pytest

from deploy.local.kafka import Kafka
from deploy.local.redis import Redis
from registry.history import history
from registry.store import RegistryStore
from schemas.models import PromotionResult
from streams.config.settings import Settings
from streams.worker import EXIT_FAULT
from tests.support.deadline import wait_until
from tests.support.kafka.administration import DEFAULT_MESSAGE_BYTES, expire_members, set_message_limits
from tests.support.kafka.topic_log import TopicLog, topic_log, uncommitted_promotions
from tests.support.promotions.events import event, publish, spec
from tests.support.promotions.hint_log import hint_channel, hint_log
from tests.support.promotions.steps import COMMIT, LOCK, STEPS, held, install, until_ended
from tests.support.stack.services import MakeTopics
from tests.support.worker.process import StartWorker, WorkerProcess

# Behind the steps of the transaction, in this order.
COMMITTED, RESULT, HINT = "before the result", "before the hint", "before the offset"
# Those first that differ most; `make faults-control` goes through all of them, and through pairs.
MOMENTS = (
    *(LOCK, "promotion_events", "promotion_audit", "control_epoch", COMMIT, COMMITTED, RESULT, HINT),
    *("models", "model_versions", "routes"),
)
ROUNDS = int(os.environ.get("CONTROL_ROUNDS", "8"))

# Each of them writes to every table of the registry.
LIFE = (
    event("register", model=spec("v1")),
    event("promote", version="v1"),
    event("register", model=spec("v2")),
    event("canary", version="v2", weight=5),
    event("promote", version="v2"),
    event("rollback"),
)


class Plane:
    """A registry, the topics of promotions, and the results in them."""

    def __init__(self, settings: Settings, redis: Redis, log: TopicLog) -> None:
        self.settings = settings
        self.dsn = settings.postgres_dsn.get_secret_value()
        self.redis = redis
        self.log = log

    @property
    def results(self) -> dict[str, list[PromotionResult]]:
        """The results so far, by event."""
        results = defaultdict(list)
        for record in self.log.of(self.settings.topic_promotion_results):
            result = PromotionResult.model_validate_json(record.value)
            results[result.event_id].append(result)
        return results

    async def until_decided(self, count: int) -> None:
        """Wait for the results of the first events of the life."""
        await self.log.until(lambda: len(self.results) >= count, f"results of {count} events")

    async def epoch(self) -> int:
        connection = await asyncpg.connect(self.dsn)
        try:
            epoch: int = await connection.fetchval("SELECT epoch FROM control_epoch")
        finally:
            await connection.close()
        return epoch

    async def until_past(self, epoch: int) -> None:
        """Wait until a promotion is committed that makes a later epoch."""

        async def is_past() -> bool:
            return await self.epoch() != epoch

        await wait_until(is_past, f"an epoch after {epoch}")

    async def kill(self, worker: WorkerProcess) -> None:
        """End a worker with -9, and let its partition go to the next one."""
        worker.kill()
        await worker.ended()
        assert await expire_members(self.settings, self.settings.control_group_id) == 1


Go = Callable[[], Awaitable[WorkerProcess]]
"""Makes a worker decide the next promotions, and returns it."""


async def kill_in_transaction(plane: Plane, step: str, go: Go) -> None:
    """Kill it while PostgreSQL is at a step of the next promotion, and let PostgreSQL finish the transaction."""
    async with held(plane.dsn, step) as hold:
        worker = await go()
        backend = await hold.backend()
        await plane.kill(worker)
        await hold.release()
        await until_ended(plane.dsn, backend)


async def kill_when_committed(plane: Plane, go: Go) -> None:
    """Kill it when PostgreSQL has committed the next promotion, and it does not know it yet."""
    epoch = await plane.epoch()
    async with held(plane.dsn, COMMIT) as hold:
        worker = await go()
        await hold.backend()
        worker.pause()
        await hold.release()
        await plane.until_past(epoch)
        await plane.kill(worker)


async def kill_after_result(plane: Plane, go: Go) -> None:
    """Kill it when the next result is there, and its hint has found no Redis."""
    plane.redis.kill()
    records = plane.log.of(plane.settings.topic_promotion_results)
    before = len(records)
    worker = await go()
    await plane.log.until(lambda: len(records) > before, "the next result")
    await plane.kill(worker)
    await asyncio.to_thread(plane.redis.start)


async def kill_after_hint(plane: Plane, go: Go) -> None:
    """Kill it when the next hint is heard, before it has committed the offset."""
    channel = await hint_channel(plane.settings.postgres_dsn.get_secret_value())
    async with hint_log(plane.redis.url, channel) as heard:
        await heard.until(lambda: heard.connections == 1)
        worker = await go()
        await heard.until(lambda: bool(heard.hints))
        await plane.kill(worker)


def test_every_step_has_its_round() -> None:
    """Nothing is left out of the moments."""
    assert set(MOMENTS) == {*STEPS, COMMITTED, RESULT, HINT}


async def kill_at(plane: Plane, moment: str, go: Go) -> None:
    if moment == COMMITTED:
        await kill_when_committed(plane, go)
    elif moment == RESULT:
        await kill_after_result(plane, go)
    elif moment == HINT:
        await kill_after_hint(plane, go)
    else:
        await kill_in_transaction(plane, moment, go)


def kills(number: int) -> tuple[str, ...]:
    """The moments of a round: the first rounds have one each, the others a second one."""
    first = MOMENTS[number % len(MOMENTS)]
    return (first, MOMENTS[(7 * number + 1) % len(MOMENTS)]) if number >= len(MOMENTS) else (first,)


@pytest.mark.parametrize("number", range(ROUNDS), ids=lambda number: f"{number}: {', '.join(kills(number))}")
async def test_a_control_worker_is_killed(
    topics: MakeTopics, database: str, own_redis: Redis, start_worker: StartWorker, number: int
) -> None:
    """With -9, once or twice in the middle of a life; the next worker decides the rest, as if nothing had been."""
    moment, *again = kills(number)
    victim = number % (len(LIFE) - 1)
    await install(database)
    # A hint that Redis does not take in time is not sent again, and here each is waited for.
    settings = await topics(1, postgres_dsn=database, redis_url=own_redis.url, redis_timeout_seconds=10.0)
    async with topic_log(settings.kafka_bootstrap, settings.topic_promotion_results) as log:
        plane = Plane(settings, own_redis, log)
        worker = start_worker(settings, roles="control")
        await publish(settings, *LIFE[:victim])
        await plane.until_decided(victim)

        async def publish_the_rest() -> WorkerProcess:
            await publish(settings, *LIFE[victim:])
            return worker

        async def start_another() -> WorkerProcess:
            return start_worker(settings, roles="control")

        await kill_at(plane, moment, publish_the_rest)
        await check_state(plane, moment, victim)
        for each in again:
            await kill_at(plane, each, start_another)
        uncommitted = await uncommitted_promotions(settings)
        async with hint_log(own_redis.url, await hint_channel(database)) as heard:
            await heard.until(lambda: heard.connections == 1)
            survivor = await start_another()
            await plane.until_decided(len(LIFE))
            due = set(range(len(LIFE) - uncommitted + 1, len(LIFE) + 1))
            await heard.until(lambda: {hint.epoch for hint in heard.hints} >= due)
        await check_end(plane, survivor)


async def check_state(plane: Plane, moment: str, victim: int) -> None:
    """Check the results, the epoch and the offset that the killed worker has left behind."""
    await plane.log.to_end()
    decided = LIFE[victim].event_id in plane.results
    epoch = await plane.epoch()
    if moment in (RESULT, HINT):
        # It may have gone on before the kill came.
        assert epoch > victim
        assert decided or moment == HINT
    else:
        assert epoch == victim + (moment in (COMMIT, COMMITTED))
        assert not decided
        assert await uncommitted_promotions(plane.settings) >= len(LIFE) - victim


async def check_end(plane: Plane, survivor: WorkerProcess) -> None:
    """Results, registry, audit trail and committed offset agree: each event is applied once, in its order."""
    # Where the killed worker had finished everything, only this shows that the survivor runs.
    await survivor.ready()
    survivor.terminate()
    assert await survivor.ended() == 0
    assert await uncommitted_promotions(plane.settings) == 0
    await plane.log.to_end()
    results = plane.results
    assert results.keys() == {one.event_id for one in LIFE}
    for repeated in results.values():
        assert all(result == repeated[0] for result in repeated)
    told = [results[one.event_id][0] for one in LIFE]
    assert [(result.status, result.revision, result.epoch) for result in told] == [
        ("applied", count, count) for count in range(1, len(LIFE) + 1)
    ]
    store = await RegistryStore.connect(plane.dsn)
    try:
        assert await store.epoch() == len(LIFE)
        model = await store.find("m")
        changes = await history(store.database, "m")
    finally:
        await store.close()
    assert model is not None
    assert (model.revision, model.route) == (told[-1].revision, told[-1].route)
    assert [(change.event_id, change.revision, change.route, change.applied_at) for change in changes] == [
        (result.event_id, result.revision, result.route, result.applied_at) for result in told
    ]


async def test_a_control_worker_is_killed_with_a_result_on_its_way(
    topics: MakeTopics, database: str, own_redis: Redis, own_kafka: Kafka, start_worker: StartWorker
) -> None:
    """It waits for a broker that hangs; whether the broker has the result or not, it is there in the end."""
    await install(database)
    settings = await topics(
        1, postgres_dsn=database, redis_url=own_redis.url, kafka_bootstrap=own_kafka.bootstrap
    )
    async with topic_log(settings.kafka_bootstrap, settings.topic_promotion_results) as log:
        plane = Plane(settings, own_redis, log)
        worker = start_worker(settings, roles="control")
        async with held(plane.dsn, COMMIT) as hold:
            await publish(settings, *LIFE)
            await hold.backend()
            own_kafka.pause()
            await hold.release()
            await plane.until_past(0)
            await worker.logged("promotion decided")
            worker.kill()
            await worker.ended()
            own_kafka.resume()
        assert await expire_members(settings, settings.control_group_id) == 1
        survivor = start_worker(settings, roles="control")
        await plane.until_decided(len(LIFE))
        await check_end(plane, survivor)


async def test_a_result_that_cannot_be_written_is_not_lost(
    topics: MakeTopics, database: str, own_redis: Redis, start_worker: StartWorker
) -> None:
    """Its event is not acknowledged: the worker ends, and the next one publishes the result."""
    settings = await topics(1, postgres_dsn=database, redis_url=own_redis.url)
    await set_message_limits(settings, {settings.topic_promotion_results: 100})
    async with topic_log(settings.kafka_bootstrap, settings.topic_promotion_results) as log:
        plane = Plane(settings, own_redis, log)
        await publish(settings, *LIFE)
        assert await start_worker(settings, roles="control").ended() == EXIT_FAULT
        assert await uncommitted_promotions(settings) == len(LIFE)
        assert await plane.epoch() == 1
        await set_message_limits(settings, {settings.topic_promotion_results: DEFAULT_MESSAGE_BYTES})
        assert await expire_members(settings, settings.control_group_id) == 1
        survivor = start_worker(settings, roles="control")
        await plane.until_decided(len(LIFE))
        await check_end(plane, survivor)
