"""A control worker ends in order while promotions wait for PostgreSQL, and the next one decides them."""

import asyncio

from aiokafka import AIOKafkaProducer

from deploy.local.postgres import Postgres
from schemas.models import PromotionResult
from tests.support.kafka.topic_log import topic_log
from tests.support.promotions.events import event, spec
from tests.support.stack.services import MakeTopics
from tests.support.worker.process import StartWorker


async def test_promotions_that_wait_do_not_hold_up_the_end(
    topics: MakeTopics, own_postgres: Postgres, start_worker: StartWorker
) -> None:
    """SIGTERM is answered by exit code 0 within its time; the event is decided when PostgreSQL is back."""
    settings = await topics(2, postgres_dsn=own_postgres.dsn)
    worker = start_worker(settings, "control")
    await worker.ready()
    await asyncio.to_thread(own_postgres.stop)
    async with AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap) as producer:
        sent = event("register", model=spec("v1"))
        await producer.send_and_wait(settings.topic_promotions, sent.model_dump_json().encode(), key=b"m")
    await worker.logged("registry not reachable; promotions wait")
    worker.terminate()
    assert await worker.ended() == 0
    await asyncio.to_thread(own_postgres.start)
    await start_worker(settings, "control").ready()
    async with topic_log(settings.kafka_bootstrap, settings.topic_promotion_results) as log:
        await log.until(lambda: log.of(settings.topic_promotion_results), "a result")
        (record,) = log.of(settings.topic_promotion_results)
    result = PromotionResult.model_validate_json(record.value)
    assert (result.event_id, result.status, result.revision) == (sent.event_id, "applied", 1)
