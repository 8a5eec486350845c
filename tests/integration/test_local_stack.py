"""The servers of a stack one by one, as fault tests use them."""

import socket
from pathlib import Path

import asyncpg
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from redis import asyncio as redis

from deploy.local import service
from deploy.local.postgres import Postgres
from deploy.local.redis import Redis
from deploy.local.stack import LocalStack


async def test_killed_servers_start_again_on_their_address(own_stack: LocalStack) -> None:
    """After a crash of Kafka and PostgreSQL the same addresses serve the same data."""
    bootstrap, dsn = own_stack.kafka_bootstrap, own_stack.postgres_dsn
    await send(bootstrap, b"before")
    await execute(dsn, "CREATE TABLE kept AS SELECT 7 AS n")

    own_stack.kafka.kill()
    own_stack.postgres.kill()
    assert own_stack.ended() == ["Kafka", "PostgreSQL"]
    own_stack.kafka.start()
    own_stack.postgres.start()

    assert own_stack.ended() == []
    assert (own_stack.kafka_bootstrap, own_stack.postgres_dsn) == (bootstrap, dsn)
    assert await execute(dsn, "SELECT n FROM kept") == [(7,)]
    assert await first_record(bootstrap) == b"before"


async def test_a_paused_postgres_hangs_until_it_is_resumed(tmp_path: Path) -> None:
    """It answers nobody while it is paused, then its open connections again, and it stops though paused."""
    server = Postgres(tmp_path / "postgres")
    server.prepare()
    server.start()
    try:
        connection = await asyncpg.connect(server.dsn)
        server.pause()
        with pytest.raises(TimeoutError):
            await asyncpg.connect(server.dsn, timeout=0.3)
        server.resume()
        assert await connection.fetchval("SELECT 1") == 1
        connection.terminate()
        server.pause()
    finally:
        server.stop()
    assert "database system is shut down" in (tmp_path / "postgres" / "postgresql.log").read_text()


async def test_a_port_that_is_taken_is_left_to_its_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the choice of a port and its use somebody may take it: the server gets another."""
    with socket.socket() as other:
        other.bind((service.HOST, 0))
        other.listen()
        taken = other.getsockname()[1]
        free = service.free_ports(1)
        answers = iter([[taken], free])
        monkeypatch.setattr(service, "free_ports", lambda _: next(answers))
        server = Redis(tmp_path / "redis")
        server.prepare()
        server.start()
        try:
            assert [server.port] == free
            client = redis.Redis.from_url(server.url)
            assert await client.ping()
            await client.aclose()
        finally:
            server.stop()


async def send(bootstrap: str, value: bytes) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic("kept", 1, 1)])
    finally:
        await admin.close()
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all") as producer:
        await producer.send_and_wait("kept", value)


async def first_record(bootstrap: str) -> bytes:
    consumer = AIOKafkaConsumer("kept", bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    async with consumer:
        value: bytes = (await consumer.getone()).value
        return value


async def execute(dsn: str, statement: str) -> list[tuple[int]]:
    connection = await asyncpg.connect(dsn)
    try:
        rows: list[tuple[int]] = await connection.fetch(statement)
        return rows
    finally:
        await connection.close()
