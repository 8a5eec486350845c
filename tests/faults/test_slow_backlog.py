"""A backlog before a server that is called for one example at a time: progress within a slice, and its end midway."""

import asyncio
from asyncio import StreamWriter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import orjson
from aiokafka import AIOKafkaProducer

from schemas.events import PredictResponse
from streams.config.settings import Settings
from tests.support.deadline import wait_until
from tests.support.kafka.topic_log import TopicLog, committed_requests, topic_log
from tests.support.models.served_model import apply
from tests.support.promotions.events import event, spec
from tests.support.servers.http_server import METADATA, HttpRequest, answer, doubled, http_server
from tests.support.stack.services import MakeTopics
from tests.support.worker.process import StartWorker

# Fewer than a slice takes.
BACKLOG = 300
# The default of `max_calls`.
CALLS = 32
# The watchdog allows twice the timeout of a version, if that is more than its setting.
TIMEOUT_MS = 3000
CALL_SECONDS = 1.5


class TurnstileServer:
    """Doubles each `x`, as many calls as `admit` has let in so far; the others wait.

    With `call_seconds` it lets in each call, and takes so long for it.
    """

    def __init__(self, call_seconds: float | None = None) -> None:
        self._call_seconds = call_seconds
        self._admitted = asyncio.Semaphore(0)

    def admit(self, calls: int) -> None:
        for _ in range(calls):
            self._admitted.release()

    async def serve(self, request: HttpRequest, writer: StreamWriter) -> None:
        if request.method == "GET":
            writer.write(answer(METADATA))
            return
        if self._call_seconds is None:
            await self._admitted.acquire()
        else:
            await asyncio.sleep(self._call_seconds)
        writer.write(answer(doubled(request)))


@asynccontextmanager
async def backlog_before(
    settings: Settings,
    database: str,
    *,
    backlog: int = BACKLOG,
    partitions: int = 1,
    timeout_ms: int = 600_000,
    call_seconds: float | None = None,
) -> AsyncIterator[tuple[TurnstileServer, TopicLog]]:
    """A registered version of such a server, and requests 0 to `backlog` - 1 to each partition in turn."""
    server = TurnstileServer(call_seconds)
    async with (
        http_server(server.serve) as url,
        topic_log(settings.kafka_bootstrap, settings.topic_responses) as log,
        AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap) as producer,
    ):
        version = spec(
            "v1",
            endpoint=f"{url}/v2/models/m",
            timeout_ms=timeout_ms,
            max_batch=1,
            cache_ttl_seconds=0,
        )
        await apply(database, event("register", model=version), event("promote", version="v1"))
        deliveries = []
        for number in range(backlog):
            request = {"request_id": str(number), "model_name": "m", "user_id": "u", "input": {"x": number}}
            deliveries.append(
                await producer.send(
                    settings.topic_requests, orjson.dumps(request), partition=number % partitions
                )
            )
        await asyncio.gather(*deliveries)
        yield server, log


def answered(log: TopicLog, settings: Settings) -> list[int]:
    """The number of each response in the topic."""
    responses = [
        PredictResponse.model_validate_json(record.value) for record in log.of(settings.topic_responses)
    ]
    for response in responses:
        assert response.predictions == 2 * int(response.request_id), response
    return [int(response.request_id) for response in responses]


async def until_answered(log: TopicLog, settings: Settings, count: int) -> None:
    """Wait for that many responses, repeats included."""
    await log.until(lambda: len(answered(log, settings)) >= count, f"{count} answers")


async def until_committed(settings: Settings, offset: int) -> None:
    async def is_committed() -> bool:
        (committed,) = await committed_requests(settings, 1)
        return committed >= offset

    await wait_until(is_committed, f"the committed offset {offset}")


async def test_answers_and_commits_do_not_wait_for_the_slice(
    topics: MakeTopics, database: str, start_worker: StartWorker
) -> None:
    """After kill -9 in the middle of a slice only what was not committed is answered again."""
    settings = await topics(1, postgres_dsn=database)
    async with backlog_before(settings, database) as (server, log):
        one = start_worker(settings)
        await one.ready()
        server.admit(BACKLOG // 2)
        await until_answered(log, settings, BACKLOG // 2)
        # Calls end in their order but for those that are in flight together.
        await until_committed(settings, BACKLOG // 2 - CALLS)
        one.kill()
        await one.ended()
        (committed,) = await committed_requests(settings, 1)
        await log.to_end()
        before = set(answered(log, settings))
        assert set(range(committed)) <= before

        server.admit(2 * BACKLOG)
        two = start_worker(settings)
        await log.until(lambda: len(set(answered(log, settings))) == BACKLOG, "all answers")
        await until_committed(settings, BACKLOG)
        two.terminate()
        assert await two.ended() == 0
        await log.to_end()
        numbers = answered(log, settings)
        assert {number for number in numbers if numbers.count(number) > 1} <= before - set(range(committed))


async def test_a_second_worker_in_a_backlog_repeats_little(
    topics: MakeTopics, database: str, start_worker: StartWorker
) -> None:
    """The first one hands back what the server has not answered, and commits what it has."""
    settings = await topics(2, postgres_dsn=database)
    async with backlog_before(settings, database, partitions=2) as (server, log):
        one = start_worker(settings)
        await one.ready()
        server.admit(BACKLOG // 2)
        await until_answered(log, settings, BACKLOG // 2)
        assigned = one.logged_again("partitions assigned")
        two = start_worker(settings)
        await one.logged("slices handed back")
        for line in (await assigned, await two.logged("partitions assigned")):
            assert len(line["partitions"]) == 1
        # Nobody answers what was handed back before it is asked for again.
        await log.to_end()
        assert len(answered(log, settings)) == BACKLOG // 2
        server.admit(2 * BACKLOG)
        await log.until(lambda: len(set(answered(log, settings))) == BACKLOG, "all answers")
        for worker in (one, two):
            worker.terminate()
            assert await worker.ended() == 0
            assert worker.log.count("UnknownMemberId") == 0
        await log.to_end()
        numbers = answered(log, settings)
        repeated = {number for number in numbers if numbers.count(number) > 1}
        for partition in range(2):
            assert sum(number % 2 == partition for number in repeated) <= CALLS


async def test_the_watchdog_lets_a_worker_work(
    topics: MakeTopics, database: str, start_worker: StartWorker
) -> None:
    """A slice takes several times as long as may pass without progress; each call is short."""
    settings = await topics(1, postgres_dsn=database, watchdog_seconds=1)
    async with backlog_before(settings, database, timeout_ms=TIMEOUT_MS, call_seconds=CALL_SECONDS) as (
        _,
        log,
    ):
        worker = start_worker(settings)
        await log.until(lambda: len(answered(log, settings)) == BACKLOG, "all answers")
        assert worker.count("no progress; ending the process") == 0
        worker.terminate()
        assert await worker.ended() == 0
