"""Requests in every compression of Kafka, which the producer or the topic chooses."""

from functools import partial
from pathlib import Path
from typing import Any

import orjson
from aiokafka import AIOKafkaProducer

from tests.support.kafka.topic_log import topic_log
from tests.support.models.served_model import predictions_of, serve_model
from tests.support.stack.services import MakeTopics
from tests.support.worker.process import StartWorker

CODECS = ("gzip", "snappy", "lz4", "zstd")


async def test_compressed_requests_are_answered(
    topics: MakeTopics, database: str, start_worker: StartWorker, tmp_path: Path
) -> None:
    """One worker reads them all, in batches one after the other."""
    settings = await topics(1, postgres_dsn=database, artifact_dir=str(tmp_path / "artifacts"))
    model = await serve_model(database, tmp_path)
    await start_worker(settings).ready()
    async with topic_log(settings.kafka_bootstrap, settings.topic_responses) as log:
        responses = log.of(settings.topic_responses)
        for number, codec in enumerate(CODECS):
            request = {"request_id": codec, "model_name": model, "user_id": "u", "input": {"x": number}}
            async with AIOKafkaProducer(
                bootstrap_servers=settings.kafka_bootstrap, compression_type=codec
            ) as producer:
                await producer.send_and_wait(settings.topic_requests, orjson.dumps(request))
            await log.until(partial(_has, responses, number + 1), f"the response to {codec}")
            assert orjson.loads(responses[-1].value)["predictions"] == predictions_of("v1", number)


def _has(responses: list[Any], count: int) -> bool:
    return len(responses) == count
