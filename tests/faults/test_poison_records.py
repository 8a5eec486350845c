"""Records that end each process that handles them: few processes end, and all other records are handled."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import asyncpg
import orjson
from aiokafka import AIOKafkaProducer

from schemas.models import PromotionResult
from streams.config.settings import Settings
from streams.kafka.attempt_ledger import ATTEMPT_LIMIT
from tests.support.deadline import wait_until
from tests.support.kafka.topic_log import (
    TopicLog,
    committed_requests,
    topic_log,
    uncommitted_promotions,
    uncommitted_requests,
)
from tests.support.models.served_model import apply
from tests.support.promotions.events import event, publish, spec
from tests.support.servers.http_server import HttpRequest, asked, http_server, serve_doubler
from tests.support.stack.services import MakeTopics
from tests.support.worker.group import MakeGroup
from tests.support.worker.process import StartWorker, WorkerProcess
from tests.support.worker.traffic import PARTITIONS

POISON = 666_666
REQUESTS, POISON_AT = 600, 300
BACKLOG = 20_000


class Restarted:
    """One worker at a time, which the next one follows when it ends, as under a supervisor."""

    def __init__(self, start_worker: StartWorker, settings: Settings, role: str) -> None:
        self._start_worker = start_worker
        self._settings = settings
        self._role = role
        self.worker: WorkerProcess
        self.ends = 0

    async def until(self, done: Callable[[], object], log: TopicLog, what: str) -> None:
        """Start workers until something is true of what they wrote; the last one runs on."""
        waiting = asyncio.create_task(log.until(done, what))
        while not waiting.done():
            self.worker = self._start_worker(self._settings, self._role)
            ended = asyncio.create_task(self.worker.ended())
            await asyncio.wait([waiting, ended], return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                self.ends += 1
        await waiting

    def kill(self) -> None:
        self.worker.kill()

    async def end(self) -> None:
        self.worker.terminate()
        assert await self.worker.ended() == 0


def check_letter(log: TopicLog, settings: Settings, source: str) -> None:
    """One record was abandoned: the one with this place."""
    (letter,) = log.of(settings.topic_dead_letters)
    headers = dict(letter.headers)
    assert headers["headrace-source"] == source.encode()
    assert headers["headrace-error-code"] == b"ABANDONED_RECORD"
    assert headers["headrace-attempts"] == str(ATTEMPT_LIMIT).encode()
    assert (letter.key, letter.value) == (None, None)


async def test_a_request_ends_every_worker(
    topics: MakeTopics, database: str, start_worker: StartWorker
) -> None:
    """Its backend kills the worker. After three ends it gets a dead letter, and all others are answered."""
    settings = await topics(PARTITIONS, postgres_dsn=database)
    restarted = Restarted(start_worker, settings, "predict")

    async def serve(request: HttpRequest, writer: asyncio.StreamWriter) -> bool | None:
        if request.method != "GET" and POISON in asked(request):
            restarted.worker.kill()
            return False
        await serve_doubler(request, writer)
        return None

    async with (
        http_server(serve) as url,
        topic_log(settings.kafka_bootstrap, settings.topic_responses, settings.topic_dead_letters) as log,
    ):
        model = spec("v1", endpoint=f"{url}/v2/models/m", timeout_ms=20_000)
        await apply(database, event("register", model=model), event("promote", version="v1"))
        await send(
            settings, [POISON if number == POISON_AT else number for number in range(REQUESTS)], model="m"
        )
        responses, letters = log.of(settings.topic_responses), log.of(settings.topic_dead_letters)
        good = {str(number) for number in range(REQUESTS)} - {str(POISON_AT)}

        async def all_is_committed() -> bool:
            return await uncommitted_requests(settings, PARTITIONS) == 0

        await restarted.until(
            lambda: {orjson.loads(each.value)["request_id"] for each in responses} >= good and letters,
            log,
            "all answers and the dead letter",
        )
        await wait_until(all_is_committed, "the commit of what was answered before the ends")
        await restarted.end()
        await log.to_end()
        partition = POISON_AT % PARTITIONS
        check_letter(log, settings, f"{settings.topic_requests}/{partition}/{POISON_AT // PARTITIONS}")
        assert restarted.ends == ATTEMPT_LIMIT
        assert all("error" not in orjson.loads(each.value) for each in responses)
        assert {orjson.loads(each.value)["request_id"] for each in responses} == good


async def test_a_promotion_ends_every_worker(
    topics: MakeTopics, database: str, start_worker: StartWorker
) -> None:
    """The workers die while they decide it. After three ends the promotions behind it are decided."""
    settings = await topics(1, postgres_dsn=database)
    restarted = Restarted(start_worker, settings, "control")
    events = [event("register", name, model=spec("v1")) for name in ("a", "poison", "b")]
    async with (
        topic_log(
            settings.kafka_bootstrap, settings.topic_promotion_results, settings.topic_dead_letters
        ) as log,
        killed_at(database, "poison", restarted.kill),
    ):
        await publish(settings, *events)
        results, letters = log.of(settings.topic_promotion_results), log.of(settings.topic_dead_letters)
        decided = {events[0].event_id, events[2].event_id}

        async def all_is_committed() -> bool:
            return await uncommitted_promotions(settings) == 0

        await restarted.until(
            lambda: (
                {PromotionResult.model_validate_json(each.value).event_id for each in results} >= decided
                and letters
            ),
            log,
            "the results and the dead letter",
        )
        await wait_until(all_is_committed, "the commit of the last promotion")
        await restarted.end()
        await log.to_end()
        check_letter(log, settings, f"{settings.topic_promotions}/0/1")
        assert restarted.ends == ATTEMPT_LIMIT
        assert {PromotionResult.model_validate_json(each.value).event_id for each in results} == decided


async def test_healthy_workers_are_killed_in_a_backlog(make_group: MakeGroup) -> None:
    """Two, one after the other, the second one while it repeats with care: nothing is abandoned."""
    group = await make_group()
    settings = group.settings
    async with topic_log(
        settings.kafka_bootstrap, settings.topic_responses, settings.topic_dead_letters
    ) as log:
        responses = log.of(settings.topic_responses)
        await send(settings, list(range(BACKLOG)), model=group.model)
        (one,) = await group.start("one")
        await log.until(lambda: len(responses) > BACKLOG // 10, "the first responses")
        one.kill()
        await one.ended()
        (two,) = await group.start("two")
        await two.logged("a process ended with records in progress; they are tried again with care")
        two.kill()
        await two.ended()
        (three,) = await group.start("three")

        async def all_committed() -> bool:
            return await uncommitted_requests(settings, PARTITIONS) == 0

        await wait_until(all_committed, "the commit of the backlog")
        await group.end(three)
        await log.to_end()
        assert log.of(settings.topic_dead_letters) == []
        assert len({dict(each.headers)["headrace-source"] for each in responses}) == BACKLOG
        assert sum(await committed_requests(settings, PARTITIONS)) == BACKLOG


async def send(settings: Settings, xs: list[int], *, model: str) -> None:
    """Send a request for each `x`, to the partitions in turn."""
    async with AIOKafkaProducer(
        bootstrap_servers=settings.kafka_bootstrap, linger_ms=20, max_batch_size=256 * 1024
    ) as producer:
        for number, x in enumerate(xs):
            request = {"request_id": str(number), "model_name": model, "user_id": "u", "input": {"x": x}}
            await producer.send(settings.topic_requests, orjson.dumps(request), partition=number % PARTITIONS)


@asynccontextmanager
async def killed_at(dsn: str, model_name: str, kill: Callable[[], None]) -> AsyncIterator[None]:
    """Kill whoever decides a promotion of this model, in its transaction."""
    connection = await asyncpg.connect(dsn)
    await connection.execute(
        f"""
        CREATE FUNCTION wait_for_kill() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF NEW.model_name = '{model_name}' THEN PERFORM pg_advisory_xact_lock_shared(1); END IF;
            RETURN NEW;
        END
        $$;
        CREATE TRIGGER held BEFORE INSERT ON promotion_audit FOR EACH ROW EXECUTE FUNCTION wait_for_kill();
        SELECT pg_advisory_lock(1);
        """
    )

    async def backend() -> int | None:
        pid: int | None = await connection.fetchval(
            "SELECT pid FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY(pg_blocking_pids(pid))"
        )
        return pid

    async def killing() -> None:
        while True:
            pid = await backend()
            if pid is not None:
                kill()
                # Its transaction does not go on without it.
                await connection.fetchval("SELECT pg_terminate_backend($1)", pid)
            await asyncio.sleep(0.02)

    task = asyncio.create_task(killing())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await connection.close()
