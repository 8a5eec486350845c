"""A stand-in for the worker: answers each request with its own input, or as the test says."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import orjson
from aiokafka import AIOKafkaProducer

from schemas.events import JsonObject
from streams.config.security import kafka_security
from streams.config.settings import Settings
from streams.kafka.tail import open_tail


def echo(request: JsonObject) -> JsonObject | None:
    """The response to a request; None leaves it unanswered."""
    return {
        "request_id": request["request_id"],
        "model_name": request["model_name"],
        "model_version": "v1",
        "user_id": request["user_id"],
        "predictions": request["input"],
        "latency_ms": 0.5,
        "cached": False,
        "revision": 1,
        "stale": False,
    }


def failing(request: JsonObject) -> JsonObject | None:
    """A response with `error` to inputs that say {"fail": true}, an echo to others."""
    response = echo(request)
    if response is not None and request["input"].get("fail"):
        del response["predictions"]
        response["error"] = {"code": "INVALID_INPUT", "message": "as asked", "details": []}
    return response


@asynccontextmanager
async def responder(
    settings: Settings, answer: Callable[[JsonObject], JsonObject | None] = echo
) -> AsyncIterator[None]:
    """Answer until the block ends; whatever is sent inside it is seen."""
    async with open_tail(settings, settings.topic_requests) as tail:
        producer = AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap, **kafka_security(settings))
        await producer.start()

        async def respond() -> None:
            while True:
                for record in await tail.next_records():
                    response = answer(orjson.loads(record.value or b""))
                    if response is not None:
                        # The key chooses the partition, as it did for the request.
                        await producer.send(settings.topic_responses, orjson.dumps(response), key=record.key)

        responding = asyncio.create_task(respond())
        try:
            yield
        finally:
            responding.cancel()
            await asyncio.gather(responding, return_exceptions=True)
            await producer.stop()
