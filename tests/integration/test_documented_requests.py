"""docs/reference/requests.md: a request as it is written there gets the responses that are written there."""

from pathlib import Path

import orjson
from aiokafka import AIOKafkaProducer

from schemas.events import JsonObject, PredictRequest, PredictResponse
from tests.integration.test_documented_first_prediction import typed
from tests.support.docs.markdown import ROOT, blocks
from tests.support.kafka.topic_log import topic_log
from tests.support.stack.services import MakeTopics
from tests.support.worker.process import StartWorker

_PAGE = ROOT / "docs" / "reference" / "requests.md"
_README = ROOT / "README.md"


async def test_the_page_shows_what_a_worker_does(
    topics: MakeTopics, database: str, redis_url: str, start_worker: StartWorker, tmp_path: Path
) -> None:
    """With the model of the README: the request, its response, and that of an invalid input."""
    request, response, failure = (orjson.loads(block.text) for block in blocks(_PAGE, "json"))
    settings = await topics(
        1, postgres_dsn=database, redis_url=redis_url, artifact_dir=str(tmp_path / "artifacts")
    )
    (tmp_path / "data").mkdir()
    (model,) = [block.text for block in blocks(_README, "sh") if "helper.make_model" in block.text]
    await typed(model, settings, tmp_path)
    await typed(".venv/bin/headrace register -f data/fraud.json --direct", settings, tmp_path)
    await typed(".venv/bin/headrace promote fraud v1 --direct", settings, tmp_path)
    worker = start_worker(settings, "predict")
    await worker.ready()
    wrong = request | {"request_id": failure["request_id"], "input": {"amount": "much"}}
    async with topic_log(settings.kafka_bootstrap, settings.topic_responses) as log:
        async with AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap) as producer:
            for each in (request, wrong):
                await producer.send_and_wait(
                    settings.topic_requests, orjson.dumps(each), key=each["user_id"].encode()
                )
        await log.until(lambda: len(log.of(settings.topic_responses)) == 2, "two responses")
        records = log.of(settings.topic_responses)
    answered = {orjson.loads(record.value)["request_id"]: record for record in records}
    for shown in (response, failure):
        record = answered[shown["request_id"]]
        assert _timeless(orjson.loads(record.value)) == _timeless(shown)
        assert record.key == b"u1"
    PredictRequest.model_validate(request)
    PredictResponse.model_validate(response)


async def test_the_page_says_where_the_brokers_are(topics: MakeTopics, tmp_path: Path) -> None:
    """The command prints the address and the topics in force."""
    settings = await topics(1)
    (command,) = [block.text for block in blocks(_PAGE, "sh") if "grep" in block.text]
    shown = await typed(command, settings, tmp_path)
    for value in (settings.kafka_bootstrap, settings.topic_requests, settings.topic_responses):
        assert value in shown
    (kcat,) = [block.text for block in blocks(_PAGE, "sh") if "kcat" in block.text]
    bootstrap = kcat.partition("\n")[0]
    assert (
        await typed(f'{bootstrap}\necho "$bootstrap"', settings, tmp_path) == f"{settings.kafka_bootstrap}\n"
    )


def _timeless(response: JsonObject) -> JsonObject:
    return response | {"latency_ms": 0}
