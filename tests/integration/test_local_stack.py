"""The servers of a stack one by one, as fault tests use them."""

import socket
from pathlib import Path

import asyncpg
import pytest
from redis import asyncio as redis

from deploy.local import service
from deploy.local.postgres import Postgres
from deploy.local.redis import Redis


async def test_a_paused_postgres_hangs_until_it_is_resumed(tmp_path: Path) -> None:
    """While paused it does not answer; resumed it answers its open connections; paused it can be stopped."""
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
    """Another process may take a port between its choice and its use: the server gets another one."""
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


def test_the_next_run_has_the_same_port(tmp_path: Path) -> None:
    """Clients and workers hold the address. When another program has the port, there is another one."""

    def run() -> int:
        server = Redis(tmp_path / "redis")
        server.prepare()
        server.start()
        server.stop()
        return server.port

    port = run()
    assert run() == port
    with socket.socket() as other:
        other.bind((service.HOST, port))
        other.listen()
        assert run() != port
