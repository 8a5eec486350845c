"""A model server that does not answer some requests in time, under load."""

import asyncio
from collections.abc import Sequence

import orjson
from aiokafka import AIOKafkaProducer

from schemas.events import ErrorCode, PredictResponse
from streams.config.settings import Settings
from tests.support.kafka.topic_log import TopicLog, topic_log
from tests.support.models.served_model import apply
from tests.support.promotions.events import event, spec
from tests.support.servers.http_server import http_server, serve_doubler
from tests.support.stack.services import MakeTopics
from tests.support.worker.process import StartWorker

PARTITIONS = 2
REQUESTS = 1000
# Above a million the server never answers.
HANGS = 1_000_001
EVERY = 100
# So long that a server which only stands in line for the processor is not taken for one that hangs: some such
# failures in a row, and it is not called any more.
TIMEOUT_SECONDS = 3


async def test_a_backend_hangs(topics: MakeTopics, database: str, start_worker: StartWorker) -> None:
    """Each such request gets an error at its timeout and a dead letter; its partition continues."""
    settings = await topics(PARTITIONS, postgres_dsn=database, slice_max_records=20)
    async with (
        http_server(serve_doubler) as url,
        topic_log(settings.kafka_bootstrap, settings.topic_responses, settings.topic_dead_letters) as log,
        AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap) as producer,
    ):
        model = spec("v1", endpoint=f"{url}/v2/models/m", timeout_ms=TIMEOUT_SECONDS * 1000)
        await apply(database, event("register", model=model), event("promote", version="v1"))
        worker = start_worker(settings)
        await worker.ready()
        inputs = [HANGS if number % EVERY == 0 else number for number in range(REQUESTS)]
        await send(producer, settings, 0, inputs)
        answers = await answers_to(REQUESTS, log, settings)
        await send(producer, settings, REQUESTS, [5] * PARTITIONS)
        answers = await answers_to(REQUESTS + PARTITIONS, log, settings)
        worker.terminate()
        assert await worker.ended() == 0
        await log.to_end()

        for number, x in enumerate(inputs):
            error = answers[number].error
            if x == HANGS:
                assert error is not None
            if error is None:
                assert answers[number].predictions == 2 * x
            else:
                # Those of the same call share its fate.
                assert error.code == ErrorCode.BACKEND_UNAVAILABLE
                assert error.message == f"no prediction within {TIMEOUT_SECONDS} s"
        assert [answers[REQUESTS + number].predictions for number in range(PARTITIONS)] == [10] * PARTITIONS
        letters = log.of(settings.topic_dead_letters)
        assert len(log.of(settings.topic_responses)) == REQUESTS + PARTITIONS
        assert sorted(int(orjson.loads(letter.value)["request_id"]) for letter in letters) == [
            number for number, answer in sorted(answers.items()) if answer.error is not None
        ]
        for letter in letters:
            headers = dict(letter.headers)
            assert headers["headrace-error-code"] == b"BACKEND_UNAVAILABLE"
            assert headers["headrace-model-version"] == b"v1"


async def send(producer: AIOKafkaProducer, settings: Settings, first: int, inputs: Sequence[int]) -> None:
    """Requests with these inputs, numbered from `first`, to each partition in turn."""
    deliveries = []
    for number, x in enumerate(inputs, first):
        request = {"request_id": str(number), "model_name": "m", "user_id": "u", "input": {"x": x}}
        deliveries.append(
            await producer.send(settings.topic_requests, orjson.dumps(request), partition=number % PARTITIONS)
        )
    await asyncio.gather(*deliveries)


async def answers_to(count: int, log: TopicLog, settings: Settings) -> dict[int, PredictResponse]:
    """Wait for `count` responses; return them by the number of their request."""
    records = log.of(settings.topic_responses)
    await log.until(lambda: len(records) >= count, f"{count} responses")
    responses = [PredictResponse.model_validate(orjson.loads(record.value)) for record in records]
    return {int(response.request_id): response for response in responses}
