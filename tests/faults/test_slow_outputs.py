"""Kafka takes responses more slowly than the models give them: a worker's memory stays bounded."""

import asyncio
from asyncio import StreamWriter

import orjson
from aiokafka import AIOKafkaProducer

from deploy.local.kafka import Kafka
from tests.support.deadline import wait_until
from tests.support.kafka.topic_log import topic_log
from tests.support.models.served_model import apply
from tests.support.promotions.events import event, spec
from tests.support.servers.http_server import METADATA, HttpRequest, answer, asked, http_server
from tests.support.stack.services import MakeTopics
from tests.support.worker.http_pages import scraped
from tests.support.worker.memory_cgroup import documented_bound_bytes, memory_cgroup
from tests.support.worker.process import StartWorker

MIB = 1024 * 1024
REQUESTS = 2000
# The predictions of all requests come to 400 MB.
NUMBERS = 40_000
PREDICTION = b",".join([b"1000"] * NUMBERS)
BUFFER_BYTES = 4 * MIB
BATCH, CALLS = 4, 2
# In JSON as it comes, and as parsed numbers.
CALL_BYTES = BATCH * NUMBERS * (2 * 5 + 40)
PAGES = 20
# 400 MB take a busy machine more than the deadline of one wait.
STEP = 200


async def test_no_model_is_called_while_kafka_takes_no_responses(
    topics: MakeTopics, database: str, own_kafka: Kafka, start_worker: StartWorker
) -> None:
    """Kafka hangs when the first call is made; the worker calls no more than the buffer takes. Later all are answered."""
    settings = await topics(
        1,
        kafka_bootstrap=own_kafka.bootstrap,
        postgres_dsn=database,
        http_port=0,
        slices_in_flight=2,
        slices_set_aside=1,
        fetch_max_bytes=MIB,
        batch_max_bytes=8 * MIB,
        output_buffer_bytes=BUFFER_BYTES,
    )
    hangs, called = asyncio.Event(), asyncio.Event()
    predicted = 0

    async def serve(request: HttpRequest, writer: StreamWriter) -> None:
        nonlocal predicted
        if request.method == "GET":
            outputs = [{"name": "y", "datatype": "INT64", "shape": [-1, NUMBERS]}]
            writer.write(answer({**METADATA, "outputs": outputs}))
            return
        count = len(asked(request))
        called.set()
        await hangs.wait()
        predicted += count
        head = b'{"model_name":"m","outputs":[{"name":"y","datatype":"INT64","shape":[%d,%d],"data":[' % (
            count,
            NUMBERS,
        )
        writer.write(answer(head + b",".join([PREDICTION] * count) + b"]}]}"))

    with memory_cgroup() as group:
        async with http_server(serve) as url, topic_log(own_kafka.bootstrap, settings.topic_responses) as log:
            hangs.set()
            model = spec(
                "v1",
                endpoint=f"{url}/v2/models/m",
                timeout_ms=60_000,
                max_batch=BATCH,
                server={"max_calls": CALLS},
                cache_ttl_seconds=0,
                output_schema={},
            )
            await apply(database, event("register", model=model), event("promote", version="v1"))
            worker = start_worker(settings)
            group.add(worker.pid)
            port = (await worker.logged("http served"))["port"]
            await worker.ready()
            hangs.clear()
            called.clear()
            group.limit(documented_bound_bytes(settings, partitions=1) + CALLS * CALL_BYTES)
            await send(own_kafka.bootstrap, settings.topic_requests)
            await asyncio.wait_for(called.wait(), 60)
            own_kafka.pause()
            hangs.set()
            page = f"http://127.0.0.1:{port}"

            async def is_quiet() -> bool:
                before = predicted
                assert group.kills == 0
                for _ in range(PAGES):
                    samples = await scraped(page)
                unsent = samples.value("headrace_unsent_predictions_bytes")
                return predicted == before and unsent > BUFFER_BYTES - 2 * MIB

            await wait_until(is_quiet, "a worker that calls no model")
            assert predicted < REQUESTS // 10
            own_kafka.resume()
            responses = log.of(settings.topic_responses)

            for wanted in range(STEP, REQUESTS + 1, STEP):

                def are_answered(wanted: int = wanted) -> bool:
                    assert group.kills == 0
                    return len({record.key for record in responses}) >= wanted

                await log.until(are_answered, f"{wanted} answers")
            assert len({record.key for record in responses}) == REQUESTS
            assert "error" not in {key for record in responses for key in orjson.loads(record.value)}
            worker.terminate()
            assert await worker.ended() == 0
            assert group.kills == 0


async def send(bootstrap: str, topic: str) -> None:
    """Send the requests in one batch; each has a key of its own."""
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, max_batch_size=MIB) as producer:
        batch = producer.create_batch()
        for number in range(REQUESTS):
            request = {"request_id": str(number), "model_name": "m", "user_id": "u", "input": {"x": number}}
            batch.append(key=b"%d" % number, value=orjson.dumps(request), timestamp=None)
        await (await producer.send_batch(batch, topic, partition=0))
