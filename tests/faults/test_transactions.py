"""Requests of transactional producers: only committed ones are answered, and their markers are no lag."""

from pathlib import Path

import orjson
from aiokafka import AIOKafkaProducer

from streams.config.settings import Settings
from tests.support.deadline import wait_until
from tests.support.kafka.topic_log import topic_log, uncommitted_requests
from tests.support.models.served_model import serve_model
from tests.support.stack.services import MakeTopics
from tests.support.worker.process import StartWorker


async def send(producer: AIOKafkaProducer, settings: Settings, model: str, request_id: str) -> None:
    request = {"request_id": request_id, "model_name": model, "user_id": "u", "input": {"x": 1}}
    await producer.send_and_wait(settings.topic_requests, orjson.dumps(request), partition=0)


async def test_only_committed_requests_are_answered(
    topics: MakeTopics, database: str, start_worker: StartWorker, tmp_path: Path
) -> None:
    """Aborted requests are passed over, and after the last answer the committed offset is the end of the topic."""
    model = await serve_model(database, tmp_path)
    settings = await topics(1, postgres_dsn=database, artifact_dir=str(tmp_path / "artifacts"))
    worker = start_worker(settings, roles="predict")
    await worker.ready()
    bootstrap = settings.kafka_bootstrap
    async with (
        topic_log(bootstrap, settings.topic_responses) as log,
        AIOKafkaProducer(bootstrap_servers=bootstrap, transactional_id=settings.group_id) as producer,
    ):
        answers = log.of(settings.topic_responses)
        for number, ends in enumerate((producer.abort_transaction, producer.commit_transaction)):
            await producer.begin_transaction()
            await send(producer, settings, model, f"{ends.__name__} {number}")
            await ends()
        await log.until(lambda: answers, "an answer")

        async def all_committed() -> bool:
            return await uncommitted_requests(settings, 1) == 0

        await wait_until(all_committed, "the commit beyond the marker")
        await producer.begin_transaction()
        await send(producer, settings, model, "later")
        await producer.commit_transaction()
        await log.until(lambda: len(answers) > 1, "the second answer")
        worker.terminate()
        assert await worker.ended() == 0
        await log.to_end()
    answered = [orjson.loads(record.value)["request_id"] for record in answers]
    assert answered == ["commit_transaction 1", "later"]
