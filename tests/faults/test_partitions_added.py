"""Requests get more partitions while workers run, before the responses do: every request is answered."""

import itertools
from pathlib import Path

import orjson
from aiokafka import AIOKafkaProducer, ConsumerRecord
from aiokafka.admin import NewPartitions

from schemas.events import PredictResponse
from streams.config.settings import Settings
from streams.kafka.tail import open_tail
from streams.kafka.topics import administration, create_topics, partition_counts
from tests.support.deadline import wait_until
from tests.support.kafka.administration import until_known
from tests.support.kafka.topic_log import TopicLog, topic_log
from tests.support.models.served_model import predictions_of, serve_model
from tests.support.stack.services import MakeTopics
from tests.support.worker.process import StartWorker

MISPLACED = "topic has fewer partitions than its requests; records go to others of its partitions"


async def add_partitions(settings: Settings, topic: str, count: int) -> None:
    async with administration(settings) as admin:
        await admin.create_partitions({topic: NewPartitions(count)})

    async def described() -> bool:
        return (await partition_counts(settings, [topic]))[topic] == count

    await wait_until(described, "the new partitions")


async def send(settings: Settings, model: str, number: int, partition: int) -> None:
    request = {"request_id": str(number), "model_name": model, "user_id": "u", "input": {"x": number}}
    async with AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap) as producer:
        await until_known(producer, settings.topic_requests, partition)
        await producer.send_and_wait(settings.topic_requests, orjson.dumps(request), partition=partition)


async def answered_in(settings: Settings, log: TopicLog, number: int) -> int:
    """Wait for the answer to a request; its partition."""

    def answers() -> list[ConsumerRecord]:
        return [
            record
            for record in log.of(settings.topic_responses)
            if orjson.loads(record.value)["request_id"] == str(number)
        ]

    await log.until(answers, f"the answer to {number}")
    (record,) = answers()
    assert PredictResponse.model_validate_json(record.value).predictions == predictions_of("v1", number)
    return int(record.partition)


async def test_requests_may_grow_before_responses(
    topics: MakeTopics, database: str, start_worker: StartWorker, tmp_path: Path
) -> None:
    """The worker takes the new partition and answers into an old one, until the responses have it too."""
    model = await serve_model(database, tmp_path)
    settings = await topics(2, postgres_dsn=database, artifact_dir=str(tmp_path / "artifacts"))
    worker = start_worker(settings)
    await worker.ready()
    await add_partitions(settings, settings.topic_requests, 3)
    await send(settings, model, 1, 2)
    async with topic_log(settings.kafka_bootstrap, settings.topic_responses) as log:
        # Until the worker asks for metadata again.
        assert await answered_in(settings, log, 1) == 0
        assert worker.count(MISPLACED) == 1
        await send(settings, model, 2, 1)
        assert await answered_in(settings, log, 2) == 1
    assert (await create_topics(settings, 3)).counts[settings.topic_responses] == 3
    numbers = itertools.count(3)
    async with topic_log(settings.kafka_bootstrap, settings.topic_responses) as log:

        async def is_at_home() -> bool:
            number = next(numbers)
            await send(settings, model, number, 2)
            return await answered_in(settings, log, number) == 2

        # The worker looks for it once a second.
        await wait_until(is_at_home, "an answer in the new partition")
    worker.terminate()
    assert await worker.ended() == 0


async def test_a_worker_starts_with_fewer_responses(
    topics: MakeTopics, database: str, start_worker: StartWorker, tmp_path: Path
) -> None:
    """A restart must not turn a warning into an outage; the log says what to do."""
    model = await serve_model(database, tmp_path)
    settings = await topics(1, postgres_dsn=database, artifact_dir=str(tmp_path / "artifacts"))
    await add_partitions(settings, settings.topic_requests, 2)
    worker = start_worker(settings)
    await worker.ready()
    warned = await worker.logged("some responses go to other partitions than their requests")
    assert "run `headrace init --partitions 2`" in warned["reason"]
    async with topic_log(settings.kafka_bootstrap, settings.topic_responses) as log:
        for number in (0, 1):
            await send(settings, model, number, number)
            assert await answered_in(settings, log, number) == 0


async def test_a_client_reads_the_partitions_that_are_added(topics: MakeTopics) -> None:
    """Within seconds, from their first record: an answer may be in one before the client knows of it."""
    settings = await topics(1)
    async with open_tail(settings, settings.topic_responses) as tail:
        await create_topics(settings, 2)
        async with AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap) as producer:
            await until_known(producer, settings.topic_responses, 1)
            await producer.send_and_wait(settings.topic_responses, b"first", partition=1)
        read: list[bytes | None] = []

        async def arrived() -> bool:
            read.extend(record.value for record in await tail.next_records())
            return bool(read)

        await wait_until(arrived, "the record in the new partition")
    assert read == [b"first"]
