"""Whatever the broker takes, a worker stays within the memory that docs/operations.md names, in a control group."""

import asyncio
import time
import uuid
from asyncio import StreamWriter
from collections.abc import Callable

import orjson
from aiokafka import AIOKafkaProducer
from aiokafka.codec import gzip_encode, zstd_encode

from schemas.events import PredictResponse
from streams.config.settings import Settings
from tests.support.deadline import Signal
from tests.support.kafka.raw_batches import bomb, change_batch, packed
from tests.support.kafka.topic_log import TopicLog, topic_log
from tests.support.models.served_model import apply
from tests.support.promotions.events import event, spec
from tests.support.servers.http_server import METADATA, HttpRequest, answer, doubled, http_server
from tests.support.stack.services import MakeTopics
from tests.support.worker.memory_cgroup import documented_bound_bytes, memory_cgroup
from tests.support.worker.process import StartWorker

MIB = 1024 * 1024
PARTITIONS = 3
GZIP, ZSTD = 1, 4
BOMB_BYTES = 500 * MIB
# A whole batch of them compresses to some kilobytes.
LARGE, LARGE_A_BATCH, LARGE_BATCHES = 900_000, 8, 20
EXPANDING, EXPANDING_BYTES = 24, 240_000


class Requests:
    """Requests to all partitions, by the batch."""

    def __init__(self, settings: Settings, model: str, producer: AIOKafkaProducer) -> None:
        self._settings, self._model, self._producer = settings, model, producer
        self.ids: list[str] = []

    def value(self, **fields: object) -> bytes:
        self.ids.append(str(len(self.ids)))
        request = {"request_id": self.ids[-1], "model_name": self._model, "user_id": "u"}
        return orjson.dumps({**request, "input": {"x": len(self.ids), **fields}})

    async def send(
        self,
        partition: int,
        values: list[bytes],
        change: Callable[[bytes], bytes | bytearray] = bytes,
        headers: list[tuple[str, bytes]] | None = None,
    ) -> None:
        batch = self._producer.create_batch()
        for value in values:
            batch.append(key=b"u", value=value, timestamp=int(time.time() * 1000), headers=headers or [])
        sent = await self._producer.send_batch(
            change_batch(batch, change), self._settings.topic_requests, partition=partition
        )
        await sent


def gzip(raw: bytes) -> bytearray:
    return packed(raw, GZIP, gzip_encode)


def zstd(raw: bytes) -> bytearray:
    return packed(raw, ZSTD, zstd_encode)


async def test_a_worker_stays_within_its_memory(
    topics: MakeTopics, database: str, start_worker: StartWorker
) -> None:
    """Batches that inflate to 500 MB or to many full slices, 3,000 headers, and JSON that takes 30 times its bytes.

    The model server answers when all of it waits, so the slices in flight are full at the same time.
    """
    gate, news = asyncio.Event(), Signal()
    called: list[HttpRequest] = []

    async def handle(request: HttpRequest, writer: StreamWriter) -> None:
        if request.method == "GET":
            writer.write(answer(METADATA))
            return
        called.append(request)
        news.notify()
        await gate.wait()
        writer.write(answer(doubled(request)))

    settings = await topics(
        PARTITIONS,
        postgres_dsn=database,
        slices_in_flight=2,
        slices_set_aside=1,
        fetch_max_bytes=MIB,
        batch_max_bytes=8 * MIB,
        output_buffer_bytes=4 * MIB,
    )
    with memory_cgroup() as group:
        async with (
            http_server(handle) as url,
            topic_log(settings.kafka_bootstrap, settings.topic_responses, settings.topic_dead_letters) as log,
            AIOKafkaProducer(
                bootstrap_servers=settings.kafka_bootstrap, max_batch_size=64 * MIB, max_request_size=64 * MIB
            ) as producer,
        ):
            name = f"m-{uuid.uuid4().hex[:12]}"
            version = spec(
                "v1",
                endpoint=f"{url}/v2/models/m",
                timeout_ms=60_000,
                cache_ttl_seconds=0,
                input_schema={"type": "object"},
            )
            await apply(
                database, event("register", name, model=version), event("promote", name, version="v1")
            )
            worker = start_worker(settings)
            group.add(worker.pid)
            await worker.ready()
            group.limit(documented_bound_bytes(settings, partitions=PARTITIONS))
            requests = Requests(settings, name, producer)
            expanding: list[object] = [{"": {}}] * (EXPANDING_BYTES // 8)
            for partition in range(PARTITIONS):
                await requests.send(partition, [b"x"], lambda raw: bomb(raw, BOMB_BYTES))
                await requests.send(partition, [bytes(4 * settings.batch_max_bytes)], gzip)
                many = [requests.value() for _ in range(20)]
                await requests.send(partition, many, zstd, headers=[("traceparent", b"")] * 3000)
                for _ in range(EXPANDING // 8):
                    await requests.send(partition, [requests.value(y=expanding) for _ in range(8)], zstd)
                for _ in range(LARGE_BATCHES):
                    large = [requests.value() + b" " * LARGE for _ in range(LARGE_A_BATCH)]
                    await requests.send(partition, large, zstd)
            await news.until(lambda: len(called) >= settings.slices_in_flight, "full slices in flight")
            gate.set()
            responses = log.of(settings.topic_responses)

            def all_answered() -> bool:
                assert group.kills == 0
                return len(responses) >= len(requests.ids)

            await log.until(all_answered, "an answer to each")
            await log.until(
                lambda: len(of_code(log, settings, b"UNREADABLE_BATCH")) == 2 * PARTITIONS, "bombs"
            )
            answers = [PredictResponse.model_validate_json(record.value) for record in responses]
            assert {response.request_id for response in answers} == set(requests.ids)
            assert {response.error for response in answers} == {None}
            worker.terminate()
            assert await worker.ended() == 0
            assert group.kills == 0


def of_code(log: TopicLog, settings: Settings, code: bytes) -> list[object]:
    letters = log.of(settings.topic_dead_letters)
    return [letter for letter in letters if dict(letter.headers)["headrace-error-code"] == code]
