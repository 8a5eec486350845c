"""The broker stops, is killed or hangs, and starts again each time: the same worker continues."""

import asyncio
import uuid
from asyncio import StreamWriter

import orjson
import pytest
from aiokafka import AIOKafkaProducer

from deploy.local.kafka import Kafka
from streams.kafka import batch_producer as producing
from streams.kafka.aiokafka_consumer import SESSION_TIMEOUT_SECONDS, TransportOptions
from streams.kafka.batch_producer import BatchProducer, OutputBatch
from streams.kafka.faust_app import worker_app
from streams.kafka.memberships import members_folder
from streams.kafka.topics import administration, create_topics
from streams.process.watchdog import EXIT_STALLED
from tests.support.kafka.topic_log import topic_log
from tests.support.models.served_model import apply
from tests.support.promotions.events import event, spec
from tests.support.servers.http_server import HttpRequest, http_server, serve_doubler
from tests.support.stack.services import MakeTopics
from tests.support.worker.group import MakeGroup
from tests.support.worker.process import WorkerProcess

# Longer than the group's session.
AWAY_SECONDS = SESSION_TIMEOUT_SECONDS + 2
MAX_LIBRARY_LINES = 20
# The length of the outage; a third of the timeout, so that a few in turn are longer.
HANG_SECONDS = 1.2


async def test_kafka_fails(make_group: MakeGroup, own_kafka: Kafka) -> None:
    """The same worker goes on; every request is answered, those sent while it was away among them."""
    group = await make_group(kafka_bootstrap=own_kafka.bootstrap)
    (worker,) = await group.start("one")
    async with group.traffic() as traffic:
        await traffic.until_answered()
        await asyncio.to_thread(own_kafka.stop)
        await asyncio.to_thread(own_kafka.start)
        await traffic.until_answered()
        await asyncio.to_thread(own_kafka.kill)
        await worker.logged("Kafka lost", times=2)
        await asyncio.sleep(AWAY_SECONDS)
        await asyncio.to_thread(own_kafka.start)
        await worker.logged("Kafka in use again", times=2)
        await traffic.until_answered()
        await traffic.end()
    await group.end(worker)
    assert (worker.count("Kafka lost"), worker.count("Kafka in use again")) == (2, 2)
    # Each of their lines once in a while, and none while Kafka is away: they would be hundreds in a second.
    assert len(library_lines(worker)) < MAX_LIBRARY_LINES, library_lines(worker)


def library_lines(worker: WorkerProcess) -> list[str]:
    """What the client library has written."""
    return [line for line in worker.log.splitlines() if '"logger":"aiokafka' in line]


async def test_a_topic_that_is_deleted_is_one_line(make_group: MakeGroup) -> None:
    """And one when it is there again, which the worker then reads."""
    group = await make_group()
    (worker,) = await group.start("one")
    settings = group.settings
    async with administration(settings) as admin:
        await admin.delete_topics([settings.topic_requests])
        assert (await worker.logged("topic lost"))["topic"] == settings.topic_requests
        await create_topics(settings)
    await worker.logged("topic in use again")
    async with group.traffic() as traffic:
        await traffic.until_answered()
        await traffic.end()
    await group.end(worker)
    assert (worker.count("topic lost"), worker.count("topic in use again")) == (1, 1)
    assert len(library_lines(worker)) < MAX_LIBRARY_LINES, library_lines(worker)


async def test_the_watchdog_ends_a_worker_that_cannot_answer(make_group: MakeGroup, own_kafka: Kafka) -> None:
    """With a broker that hangs for too long the process ends; one that is started later answers everything."""
    group = await make_group(kafka_bootstrap=own_kafka.bootstrap, watchdog_seconds=2.0, timeout_ms=1000)
    asked = asyncio.Event()

    async def never_answer(request: HttpRequest, writer: StreamWriter) -> None:
        if request.method == "POST":
            asked.set()
            await asyncio.Event().wait()
        await serve_doubler(request, writer)

    async with http_server(never_answer) as url, group.traffic() as traffic:
        name = f"m-{uuid.uuid4().hex[:12]}"
        version = spec("v1", endpoint=f"{url}/v2/models/m", timeout_ms=1000)
        await apply(
            group.settings.postgres_dsn.get_secret_value(),
            event("register", name, model=version),
            event("promote", name, version="v1"),
        )
        (worker,) = await group.start("one")
        await traffic.until_answered()
        # Without anything in hand it would have nothing to wait for.
        async with AIOKafkaProducer(bootstrap_servers=own_kafka.bootstrap) as producer:
            request = {"request_id": "r", "model_name": name, "user_id": "u", "input": {"x": 1}}
            await producer.send_and_wait(group.settings.topic_requests, orjson.dumps(request))
        await asked.wait()
        own_kafka.pause()
        assert await worker.ended() == EXIT_STALLED
        own_kafka.resume()
        (worker,) = await group.start("two")
        await traffic.until_answered()
        await traffic.end()
    await group.end(worker)


async def test_batches_wait_in_turn_while_the_broker_hangs(
    topics: MakeTopics, own_kafka: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each batch for a partition has the whole timeout for itself, however many wait before it."""
    monkeypatch.setattr(producing, "REQUEST_TIMEOUT_SECONDS", 4)
    settings = await topics(1, kafka_bootstrap=own_kafka.bootstrap)
    app = worker_app(
        TransportOptions(
            bootstrap=settings.kafka_bootstrap,
            group_id=settings.group_id,
            client_id="test",
            slice_max_records=1,
            max_outstanding=1,
            fetch_max_bytes=1,
            batch_max_bytes=64 * 1024 * 1024,
            members_folder=members_folder(settings),
        ),
        on_fault=lambda _: None,
    )
    producer = app.producer
    assert isinstance(producer, BatchProducer)
    async with producer:
        await (await producer.send_batch(batch_of(0), settings.topic_responses, 0))
        own_kafka.pause()
        sending = [
            asyncio.create_task(producer.send_batch(batch_of(number), settings.topic_responses, 0))
            for number in range(1, 9)
        ]
        await asyncio.sleep(HANG_SECONDS)
        own_kafka.resume()
        for delivery in await asyncio.gather(*sending):
            await delivery
    async with topic_log(settings.kafka_bootstrap, settings.topic_responses) as log:
        await log.to_end()
        assert [record.value for record in log.of(settings.topic_responses)] == [
            b"%d" % number for number in range(9)
        ]


def batch_of(number: int) -> OutputBatch:
    batch = OutputBatch()
    assert batch.add(0, None, b"%d" % number, [])
    return batch
