"""streams/clients/reply_connection.py: failing, sending on an open connection, and closing, without Kafka."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from schemas.errors import BrokerUnavailableError, InvalidRequestError
from streams.clients import reply_connection
from streams.clients.reply_connection import ReplyConnection, ReplyProtocol
from streams.config.settings import Settings
from tests.support.deadline import deadline


@dataclass
class Kafka:
    """A reader without records and a producer that delivers nothing; `may_close` holds the closing of both."""

    failure: asyncio.Future[Any]
    closing: list[str] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)
    both_closing: asyncio.Event = field(default_factory=asyncio.Event)
    may_close: asyncio.Event = field(default_factory=asyncio.Event)

    @asynccontextmanager
    async def open(self, name: str) -> AsyncIterator["Kafka"]:
        try:
            yield self
        finally:
            self.closing.append(name)
            if len(self.closing) == 2:
                self.both_closing.set()
            await self.may_close.wait()
            self.closed.append(name)

    async def next_records(self) -> Any:
        return await asyncio.shield(self.failure)

    async def send(self, *_: object, **__: object) -> asyncio.Future[object]:
        return asyncio.get_running_loop().create_future()


@pytest.fixture
async def kafka(monkeypatch: pytest.MonkeyPatch) -> Kafka:
    """Stands for the broker of `connect`."""
    made = Kafka(asyncio.get_running_loop().create_future())
    monkeypatch.setattr(reply_connection, "open_tail", lambda *_: made.open("reader"))
    monkeypatch.setattr(reply_connection, "open_producer", lambda *_, **__: made.open("producer"))
    return made


def connect() -> ReplyConnection[bytes]:
    protocol = ReplyProtocol(
        request_topic="requests",
        reply_topic="replies",
        id_field="id",
        parse=lambda _, value: value,
        conflict=InvalidRequestError,
    )
    return ReplyConnection(Settings(), protocol, close_seconds=5.0)


async def test_requests_fail_with_the_cause_before_the_connections_are_closed(kafka: Kafka) -> None:
    """Closing may take seconds, in which a request would reach its timeout and hide the cause."""
    connection = connect()
    pending = await connection.send("1", b"k", b"{}")
    kafka.failure.set_exception(BrokerUnavailableError("no route"))
    async with deadline("the request fails"):
        with pytest.raises(BrokerUnavailableError, match="no route"):
            await pending
        with pytest.raises(BrokerUnavailableError, match="no route"):
            await connection.send("2", b"k", b"{}")
        assert kafka.closed == []
        kafka.may_close.set()
        await connection.close()


async def test_the_reader_and_the_producer_are_closed_concurrently(kafka: Kafka) -> None:
    """Neither waits for the other; the client waits for both."""
    connection = connect()
    pending = await connection.send("1", b"k", b"{}")
    closing = asyncio.create_task(connection.close())
    async with deadline("both are closing"):
        await kafka.both_closing.wait()
    with pytest.raises(BrokerUnavailableError, match="the client is closed"):
        await pending
    assert not closing.done()
    kafka.may_close.set()
    await closing
    assert sorted(kafka.closed) == ["producer", "reader"]


async def test_a_request_on_an_open_connection_does_not_wait_for_it(
    kafka: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each wait adds and removes callbacks of shared futures: quadratic in the concurrent requests."""
    connection = connect()
    await connection.connected()
    with monkeypatch.context() as patch:
        patch.setattr(connection, "connected", None)
        await connection.send("1", b"k", b"{}")
    kafka.may_close.set()
    await connection.close()
