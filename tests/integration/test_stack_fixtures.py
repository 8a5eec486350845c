"""The fixtures that every other integration test stands on."""

import asyncpg
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from redis import asyncio as redis

from deploy.local.redis import Redis
from tests.support.stack.services import MakeTopics


async def test_topics_are_the_test_s_own_and_carry_records(topics: MakeTopics) -> None:
    """A record sent to the factory's topic comes back from it, and two calls share no topic."""
    first, second = await topics(partitions=2), await topics()
    assert first.topic_requests != second.topic_requests
    async with AIOKafkaProducer(bootstrap_servers=first.kafka_bootstrap) as producer:
        await producer.send_and_wait(first.topic_requests, b"{}", partition=1)
    consumer = AIOKafkaConsumer(
        first.topic_requests, bootstrap_servers=first.kafka_bootstrap, auto_offset_reset="earliest"
    )
    async with consumer:
        record = await consumer.getone()
    assert (record.partition, record.value) == (1, b"{}")


async def test_databases_are_the_test_s_own(database: str) -> None:
    """A table made here is in no other test's database."""
    connection = await asyncpg.connect(database)
    try:
        await connection.execute("CREATE TABLE only_here ()")
        assert await connection.fetchval("SELECT count(*) FROM only_here") == 0
    finally:
        await connection.close()


async def test_own_redis_hangs_and_dies_on_demand(own_redis: Redis) -> None:
    """Paused it does not answer, resumed it does, and after a stop it starts on the same address."""
    client = redis.Redis.from_url(own_redis.url, socket_timeout=0.2, retry=None)
    try:
        own_redis.pause()
        with pytest.raises(redis.TimeoutError):
            await client.ping()
        own_redis.resume()
        await client.ping()
        own_redis.stop()
        with pytest.raises(redis.ConnectionError):
            await client.ping()
        own_redis.start()
        await client.ping()
    finally:
        await client.aclose()
