"""Tracing on the real stack: from a request's context to the model server's, and with a receiver that is away."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

import orjson
import pytest
from aiokafka import AIOKafkaProducer

from schemas.events import ErrorCode
from streams.config.settings import Settings
from streams.tracing.spans import MAX_LINKS
from tests.support.kafka.topic_log import TopicLog, topic_log
from tests.support.models.served_model import apply
from tests.support.promotions.events import event, spec
from tests.support.servers.http_server import HttpRequest, http_server, serve_doubler
from tests.support.servers.otlp_receiver import CLIENT, CONSUMER, ERROR, otlp_receiver
from tests.support.stack.services import MakeTopics
from tests.support.worker.process import StartWorker

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TOKEN = "hunter2-of-the-receiver"
X = 271828


def parent_of(number: int, flags: str = "01") -> str:
    return f"00-{TRACE}-{number:016x}-{flags}"


async def send(settings: Settings, requests: Sequence[tuple[str, Any, Sequence[tuple[str, str]]]]) -> None:
    """Requests by id, `x` and headers, all at once."""
    async with AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap) as producer:
        batch = producer.create_batch()
        for request_id, x, headers in requests:
            document = {"request_id": request_id, "model_name": "m", "user_id": "u-31415", "input": {"x": x}}
            taken = batch.append(
                key=b"u",
                value=orjson.dumps(document),
                timestamp=int(time.time() * 1000),
                headers=[(name, value.encode()) for name, value in headers],
            )
            assert taken is not None
        await (await producer.send_batch(batch, settings.topic_requests, partition=0))


async def answers(log: TopicLog, settings: Settings, count: int) -> dict[str, Any]:
    """The records with the responses, by request id."""
    records = log.of(settings.topic_responses)
    await log.until(lambda: len(records) >= count, f"{count} responses")
    return {orjson.loads(record.value)["request_id"]: record for record in records}


async def register(database: str, url: str) -> None:
    model = spec("v1", endpoint=f"{url}/v2/models/m", cache_ttl_seconds=0)
    await apply(database, event("register", model=model), event("promote", version="v1"))


async def test_a_request_is_followed_to_the_model_server(
    topics: MakeTopics, database: str, start_worker: StartWorker
) -> None:
    """Its span, the slice's, the call's and the context that the model server gets are one trace."""
    parents: list[str | None] = []

    async def serve(request: HttpRequest, writer: asyncio.StreamWriter) -> None:
        if request.method == "POST":
            parents.append(request.headers.get("traceparent"))
        await serve_doubler(request, writer)

    async with AsyncExitStack() as opened:
        url = await opened.enter_async_context(http_server(serve))
        endpoint, receiver = await opened.enter_async_context(otlp_receiver())
        settings = await topics(
            1,
            postgres_dsn=database,
            worker_name="w-1",
            otlp_endpoint=endpoint,
            otlp_headers=f"authorization=Bearer%20{TOKEN}",
        )
        log = await opened.enter_async_context(topic_log(settings.kafka_bootstrap, settings.topic_responses))
        await register(database, url)
        worker = start_worker(settings, "predict")
        await worker.ready()
        await send(settings, [("untraced", 1, [("traceparent", parent_of(1, "00"))])])
        await answers(log, settings, 1)
        await send(settings, [("r1", X, [("traceparent", parent_of(7)), ("tracestate", "vendor=1")])])
        answered = (await answers(log, settings, 2))["r1"]
        await receiver.until(lambda: len(receiver.spans) == 2, "two spans")
        worker.terminate()
        assert await worker.ended() == 0
        written = worker.log

    (handled,) = receiver.named(f"process {settings.topic_requests}")
    (call,) = receiver.named("infer m")
    assert (handled.kind, call.kind) == (CONSUMER, CLIENT)
    assert handled.trace_id == call.trace_id == TRACE
    assert handled.parent_id == f"{7:016x}"
    assert handled.links == [(TRACE, f"{7:016x}")]
    assert call.parent_id == handled.span_id
    assert handled.seconds >= call.seconds > 0
    # Within the latency that the answer reports, plus its delivery.
    assert handled.seconds * 1000 >= orjson.loads(answered.value)["latency_ms"]
    for name, value in {
        "messaging.system": "kafka",
        "messaging.destination.name": settings.topic_requests,
        "messaging.destination.partition.id": "0",
        "messaging.consumer.group.name": settings.group_id,
        "messaging.batch.message_count": 1,
    }.items():
        assert handled.attributes[name] == value
    assert call.attributes["headrace.model.version"] == "v1"
    assert f"http://{call.attributes['server.address']}:{call.attributes['server.port']}" == url
    assert handled.resource["service.name"] == "headrace"
    assert handled.resource["service.instance.id"] == "w-1"

    not_sampled, own = parents
    assert not_sampled is not None
    assert not_sampled.endswith("-00")
    assert own == f"00-{TRACE}-{call.span_id}-01"
    # The answer belongs to whoever asked.
    headers = dict(answered.headers)
    assert headers["traceparent"] == parent_of(7).encode()
    assert headers["tracestate"] == b"vendor=1"

    assert receiver.headers[0]["authorization"] == f"Bearer {TOKEN}"
    told = written.encode() + b"".join(receiver.bodies)
    assert TOKEN.encode() not in told
    for secret in (str(X), "u-31415", str(2 * X)):
        assert secret.encode() not in b"".join(receiver.bodies)


async def test_a_slice_of_many_has_one_span(
    topics: MakeTopics, database: str, start_worker: StartWorker
) -> None:
    """With links to those of its requests that are sampled, and the fault of one among them."""
    count = MAX_LINKS + 8
    requests: list[tuple[str, Any, list[tuple[str, str]]]] = [
        ("unsampled", 1, [("traceparent", parent_of(999, "00"))]),
        ("untraced", 2, []),
        ("garbage", 3, [("traceparent", "00-no")]),
        ("bad", "x is no number", [("traceparent", parent_of(1000))]),
        *((f"r{number}", number, [("traceparent", parent_of(number))]) for number in range(10, 10 + count)),
    ]
    async with (
        http_server(serve_doubler) as url,
        otlp_receiver() as (endpoint, receiver),
    ):
        settings = await topics(1, postgres_dsn=database, otlp_endpoint=f"{endpoint}/")
        async with topic_log(settings.kafka_bootstrap, settings.topic_responses) as log:
            await register(database, url)
            # One Kafka batch, which is taken as one slice.
            await send(settings, requests)
            worker = start_worker(settings, "predict")
            found = await answers(log, settings, len(requests))
            await receiver.until(
                lambda: (
                    receiver.named(f"process {settings.topic_requests}")
                    and sum(call.attributes["headrace.batch.size"] for call in receiver.named("infer m"))
                    >= len(requests)
                ),
                "the span of the slice, and those of the calls for all its requests",
            )
            worker.terminate()
            assert await worker.ended() == 0
    assert orjson.loads(found["bad"].value)["error"]["code"] == ErrorCode.BACKEND_ERROR
    (handled,) = receiver.named(f"process {settings.topic_requests}")
    calls = receiver.named("infer m")
    linked = [1000, *range(10, 10 + count)][:MAX_LINKS]
    assert handled.links == [(TRACE, f"{number:016x}") for number in linked]
    assert handled.parent_id == ""
    assert handled.trace_id not in ("", TRACE)
    assert handled.attributes["messaging.batch.message_count"] == len(requests)
    assert {call.parent_id for call in calls} == {handled.span_id}
    assert sum(call.attributes["headrace.batch.size"] for call in calls) == len(requests)
    (failed,) = [call for call in calls if call.status == ERROR]
    for span in (handled, failed):
        assert span.status == ERROR
        assert span.attributes["error.type"] == "BACKEND_ERROR"
        assert span.attributes["headrace.error.count"] == 1
    # A header that no context can be read from is carried all the same.
    assert dict(found["garbage"].headers)["traceparent"] == b"00-no"


@pytest.mark.parametrize("hangs", [False, True])
async def test_predictions_do_not_need_the_receiver(
    topics: MakeTopics, database: str, start_worker: StartWorker, hangs: bool
) -> None:
    """One that is not there, and one that takes connections and never answers; the end is in time too."""
    async with AsyncExitStack() as opened:
        url = await opened.enter_async_context(http_server(serve_doubler))
        endpoint = "http://127.0.0.1:9"
        if hangs:
            endpoint = await opened.enter_async_context(http_server(never_answer))
        settings = await topics(1, postgres_dsn=database, otlp_endpoint=endpoint, shutdown_seconds=5)
        log = await opened.enter_async_context(topic_log(settings.kafka_bootstrap, settings.topic_responses))
        await register(database, url)
        worker = start_worker(settings, "predict")
        await worker.ready()
        for number in range(5):
            await send(settings, [(f"r{number}", number, [("traceparent", parent_of(number + 1))])])
            found = await answers(log, settings, number + 1)
            assert orjson.loads(found[f"r{number}"].value)["predictions"] == 2 * number
        worker.terminate()
        # 0: an end that takes longer than shutdown_seconds has another code.
        assert await worker.ended() == 0
        assert "Traceback" not in worker.log


async def never_answer(_: HttpRequest, __: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()
