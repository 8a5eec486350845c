"""Batches that the broker takes and that cannot be read, or not within the limits: each role steps over them."""

import gzip
import resource
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import orjson
from aiokafka import AIOKafkaProducer
from aiokafka.codec import lz4_encode

from streams.clients.predict_client import PredictClient
from streams.clients.promotion_client import PromotionClient
from streams.config.settings import Settings
from streams.roles import ROLES
from tests.support.kafka.raw_batches import bomb, change_batch, packed, undated
from tests.support.kafka.topic_log import topic_log
from tests.support.models.served_model import predictions_of, serve_model
from tests.support.promotions.events import event
from tests.support.stack.services import MakeTopics
from tests.support.worker.process import StartWorker, WorkerProcess

BOMB_BYTES = 500 << 20
# Room for the limits of four roles, and less than one bomb.
ROOM_BYTES = 450 << 20
GZIP, LZ4 = 1, 3


def limit_memory(worker: WorkerProcess) -> None:
    """From now on the worker gets at most `ROOM_BYTES` more addresses than it has."""
    pages = int(Path(f"/proc/{worker.pid}/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + ROOM_BYTES
    resource.prlimit(worker.pid, resource.RLIMIT_AS, (limit, limit))


@asynccontextmanager
async def sender(settings: Settings) -> AsyncIterator[Callable[..., Any]]:
    """Sends the values as one batch to partition 0 of a topic, as `change` returns its bytes."""
    async with AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap) as producer:

        async def send(
            topic: str, values: Iterable[bytes], change: Callable[[bytes], bytes | bytearray] = bytes
        ) -> None:
            batch: Any = producer.create_batch()
            for value in values:
                batch.append(key=b"u", value=value, timestamp=int(time.time() * 1000))
            await (await producer.send_batch(change_batch(batch, change), topic, partition=0))

        yield send


async def test_every_role_steps_over_a_batch_that_inflates_beyond_the_limit(
    topics: MakeTopics, database: str, start_worker: StartWorker, tmp_path: Path
) -> None:
    """Each leaves one dead letter with its place; requests and promotions go on, and clients too read on."""
    settings = await topics(1, postgres_dsn=database, artifact_dir=str(tmp_path / "artifacts"))
    model = await serve_model(database, tmp_path)
    workers = [start_worker(settings, role) for role in ROLES]
    for worker in workers:
        await worker.ready()
        limit_memory(worker)
    read = [
        settings.topic_requests,
        settings.topic_promotions,
        settings.topic_metrics,
        settings.topic_responses,
    ]
    async with (
        topic_log(settings.kafka_bootstrap, settings.topic_dead_letters) as log,
        PredictClient(settings) as client,
        PromotionClient(settings) as promotions,
        sender(settings) as send,
    ):
        # The clients are connected, so that they meet the batches too.
        await client.predict(model, user_id="u", input={"x": 1})
        for topic in read:
            await send(topic, [b"?"], partial(bomb, value_bytes=BOMB_BYTES))
        letters = log.of(settings.topic_dead_letters)
        await log.until(lambda: len(letters) >= len(read), "a dead letter of each role")
        response = await client.predict(model, user_id="u", input={"x": 5})
        assert response.predictions == predictions_of("v1", 5)
        decided = await promotions.decide(event("archive", model, version="v1"))
        assert decided.via == "kafka"
    for letter in letters:
        headers = dict(letter.headers)
        assert (letter.key, letter.value) == (None, None)
        assert headers["headrace-error-code"] == b"UNREADABLE_BATCH"
        assert headers["headrace-error-message"] == b"inflates to more than 67108864 bytes"
    sources = {dict(letter.headers)["headrace-source"].decode().split("/")[0] for letter in letters}
    assert sources == set(read)
    for worker in workers:
        assert worker.count("records stepped over") == 1
        worker.terminate()
        assert await worker.ended() == 0


async def test_what_other_clients_read_is_answered(
    topics: MakeTopics, database: str, start_worker: StartWorker, tmp_path: Path
) -> None:
    """Bytes behind a gzip stream are ignored, as Kafka ignores them; behind an lz4 frame they are not.

    The deadline of a record without a timestamp counts from when it is read.
    """
    settings = await topics(1, postgres_dsn=database, artifact_dir=str(tmp_path / "artifacts"))
    model = await serve_model(database, tmp_path)
    worker = start_worker(settings)
    await worker.ready()

    def requests(*request_ids: str) -> list[bytes]:
        request = {"model_name": model, "user_id": "u", "input": {"x": 5}, "deadline_ms": 60_000}
        return [orjson.dumps({"request_id": each, **request}) for each in request_ids]

    async with (
        topic_log(settings.kafka_bootstrap, settings.topic_responses, settings.topic_dead_letters) as log,
        sender(settings) as send,
    ):
        topic = settings.topic_requests
        await send(
            topic, requests("a", "b", "c"), lambda raw: packed(raw, GZIP, lambda b: gzip.compress(b) + b"xx")
        )
        await send(topic, requests("d", "e"), lambda raw: packed(raw, LZ4, lambda b: lz4_encode(b) + b"xx"))
        await send(topic, requests("behind"), undated)
        responses, letters = log.of(settings.topic_responses), log.of(settings.topic_dead_letters)
        await log.until(lambda: len(responses) == 4 and letters, "the responses and the dead letter")
    assert {orjson.loads(each.value)["request_id"] for each in responses} == {"a", "b", "c", "behind"}
    assert all("error" not in orjson.loads(each.value) for each in responses)
    (letter,) = letters
    headers = dict(letter.headers)
    assert headers["headrace-source"] == f"{topic}/0/3".encode()
    assert headers["headrace-last-offset"] == b"4"
    worker.terminate()
    assert await worker.ended() == 0
