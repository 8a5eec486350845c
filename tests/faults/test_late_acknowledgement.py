"""A worker that finishes a slice after its partition went to another one."""

import asyncio
from collections import Counter

import orjson
from aiokafka import AIOKafkaProducer

from tests.support.deadline import DEADLINE_SECONDS
from tests.support.kafka.topic_log import TopicLog, topic_log, uncommitted_requests
from tests.support.models.served_model import apply
from tests.support.promotions.events import event, spec
from tests.support.servers.http_server import HttpRequest, http_server, serve_doubler
from tests.support.stack.services import MakeTopics
from tests.support.worker.process import StartWorker


async def test_a_late_acknowledgement_commits_nothing(
    topics: MakeTopics, database: str, start_worker: StartWorker
) -> None:
    """Both answer the slice, and the offset that the other one has committed since stays committed."""
    settings = await topics(1, postgres_dsn=database)
    called, released = asyncio.Event(), asyncio.Event()

    async def serve(request: HttpRequest, writer: asyncio.StreamWriter) -> None:
        if request.method == "POST" and not called.is_set():
            called.set()
            await released.wait()
        await serve_doubler(request, writer)

    async with (
        http_server(serve) as url,
        topic_log(settings.kafka_bootstrap, settings.topic_responses) as log,
        AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap) as producer,
    ):
        # Without cache, since the input that is being inferred has no part in this.
        model = spec("v1", endpoint=f"{url}/v2/models/m", timeout_ms=120_000, cache_ttl_seconds=0)
        await apply(database, event("register", model=model), event("promote", version="v1"))

        async def send(x: int) -> None:
            request = {"request_id": str(x), "model_name": "m", "user_id": "u", "input": {"x": x}}
            await producer.send_and_wait(settings.topic_requests, orjson.dumps(request), key=b"u")

        one = start_worker(settings)
        await one.ready()
        await send(1)
        await asyncio.wait_for(called.wait(), DEADLINE_SECONDS)
        one.pause()
        two = start_worker(settings)
        await until_answered(log, settings.topic_responses, "1")
        await send(2)
        await send(3)
        await until_answered(log, settings.topic_responses, "1", "2", "3")
        two.terminate()
        assert await two.ended() == 0
        assert await uncommitted_requests(settings, 1) == 0

        released.set()
        # It cannot commit offsets before it is a member again.
        rejoined = one.logged_again("partitions assigned")
        one.resume()
        await rejoined
        await send(4)
        await until_answered(log, settings.topic_responses, "1", "1", "4")
        one.terminate()
        assert await one.ended() == 0
        assert await uncommitted_requests(settings, 1) == 0
        await log.to_end()
        # It may answer again, once, what it had fetched before its pause and before it learns of its exclusion.
        assert max(Counter(answered(log, settings.topic_responses)).values()) == 2


async def until_answered(log: TopicLog, topic: str, *request_ids: str) -> None:
    """Wait until there are these responses, among others."""
    await log.until(
        lambda: not Counter(request_ids) - Counter(answered(log, topic)), f"responses to {request_ids}"
    )


def answered(log: TopicLog, topic: str) -> list[str]:
    """The request ids of the responses so far, each to the record at its number's offset."""
    ids = []
    for record in log.of(topic):
        request_id = orjson.loads(record.value)["request_id"]
        assert dict(record.headers)["headrace-source"].endswith(b"/0/%d" % (int(request_id) - 1))
        ids.append(request_id)
    return ids
