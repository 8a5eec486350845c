"""Records that another serializer framed, and timestamps that another clock wrote, on a real broker and a real worker."""

import gzip
import json
import time
from collections.abc import Callable
from pathlib import Path

from aiokafka import AIOKafkaProducer

from schemas.events import JsonObject, MetricsDelta, PredictResponse
from tests.support.kafka.topic_log import topic_log
from tests.support.models.served_model import serve_model
from tests.support.stack.services import MakeTopics
from tests.support.worker.process import StartWorker

FRAMES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "registry": (
        lambda body: b"\x00\x00\x00\x00\x07" + body,
        "Confluent: a zero byte and the schema id 7 first",
    ),
    "gzip": (gzip.compress, "it looks like gzip: set the compression of the producer"),
    "twice": (lambda body: json.dumps(body.decode()).encode(), "encoded twice"),
}
NUMBER = 'a number is not text; send it in quotes, like "42"'


async def test_each_comes_back_with_what_to_change(
    topics: MakeTopics, database: str, start_worker: StartWorker, tmp_path: Path
) -> None:
    """Dead letters say what records look like; an error says that a timestamp looks like seconds; figures stay true."""
    settings = await topics(1, postgres_dsn=database, artifact_dir=str(tmp_path / "artifacts"))
    model = await serve_model(database, tmp_path)

    def request(request_id: str, **fields: object) -> bytes:
        document: JsonObject = {
            "request_id": request_id,
            "model_name": model,
            "user_id": "u",
            "input": {"x": 1},
        }
        return json.dumps(document | fields).encode()

    worker = start_worker(settings, "predict")
    await worker.ready()
    read = (settings.topic_responses, settings.topic_dead_letters, settings.topic_metrics)
    async with (
        topic_log(settings.kafka_bootstrap, *read) as log,
        AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap) as producer,
    ):
        for name, (frame, _) in FRAMES.items():
            await producer.send_and_wait(settings.topic_requests, frame(request(name)), key=name.encode())
        seconds = int(time.time())
        for value in (request("old"), request("late", deadline_ms=600_000), request("number", user_id=42)):
            await producer.send_and_wait(settings.topic_requests, value, timestamp_ms=seconds)
        await log.until(lambda: len(log.of(settings.topic_responses)) == 3, "three responses")
        await log.until(lambda: len(log.of(settings.topic_dead_letters)) == 3, "three dead letters")
        letters = {
            record.key.decode(): dict(record.headers)["headrace-error-message"].decode()
            for record in log.of(settings.topic_dead_letters)
        }
        answers = [
            PredictResponse.model_validate_json(record.value) for record in log.of(settings.topic_responses)
        ]
        responses = {answer.request_id: answer for answer in answers}

        def counted() -> list[MetricsDelta]:
            records = log.of(settings.topic_metrics)
            deltas = [MetricsDelta.model_validate_json(record.value) for record in records]
            return [delta for delta in deltas if delta.model_name == model]

        await log.until(lambda: sum(delta.requests for delta in counted()) == 3, "three counted requests")
    for name, (_, told) in FRAMES.items():
        assert told in letters[name]
    assert responses["old"].error is None
    late, number = responses["late"].error, responses["number"].error
    assert late is not None
    assert late.code == "DEADLINE_EXCEEDED"
    assert "the record's Kafka timestamp looks like seconds" in late.message
    assert number is not None
    assert [(detail.path, detail.message) for detail in number.details] == [("/user_id", NUMBER)]
    assert sum(delta.latency_ms.count for delta in counted()) == 3
    assert sum(delta.end_to_end_ms.count for delta in counted()) == 0
