"""streams/headrace_client/reply_connection.py: failing, sending on an open connection, and closing, without Kafka."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from schemas.errors import BrokerUnavailableError, InvalidRequestError
from schemas.wire import object_or_none
from streams.headrace_client.kafka_link import Place
from streams.headrace_client.pending_replies import ReplyForm
from streams.headrace_client.reply_connection import ReplyConnection, ReplyProtocol
from streams.kafka.errors import ERRORS
from tests.support.deadline import deadline

PLACE = Place(0, (0,))


@dataclass
class Link:
    """An open connection without replies, whose sender delivers nothing; `may_close` holds its closing."""

    failure: asyncio.Future[Any]
    awaited: list[Place] = field(default_factory=list)
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    closed: bool = False
    may_close: asyncio.Event = field(default_factory=asyncio.Event)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Any]:
        try:
            yield self
        finally:
            self.closing.set()
            await self.may_close.wait()
            self.closed = True

    async def place(self, _: bytes) -> Place:
        return PLACE

    async def begin(self, place: Place) -> None:
        self.awaited.append(place)

    def end(self, place: Place) -> None:
        self.awaited.remove(place)

    async def next_replies(self) -> Any:
        return await asyncio.shield(self.failure)

    async def send(self, *_: object) -> asyncio.Future[object]:
        return asyncio.get_running_loop().create_future()


@pytest.fixture
async def link() -> Link:
    return Link(asyncio.get_running_loop().create_future())


def connect(link: Link) -> ReplyConnection[bytes]:
    protocol = ReplyProtocol(
        request_topic="requests",
        form=ReplyForm("id", object_or_none, lambda _, value: value),
        conflict=InvalidRequestError,
        bootstrap="broker:9092",
        errors=ERRORS,
    )
    return ReplyConnection(protocol, link.open)


async def test_requests_fail_with_the_cause_before_the_connections_are_closed(link: Link) -> None:
    """Closing may take seconds, in which a request would reach its timeout and hide the cause."""
    connection = connect(link)
    pending = await connection.send("1", b"k", b"{}")
    link.failure.set_exception(BrokerUnavailableError("no route"))
    async with deadline("the request fails"):
        with pytest.raises(BrokerUnavailableError, match="no route"):
            await pending
        with pytest.raises(BrokerUnavailableError, match="no route"):
            await connection.send("2", b"k", b"{}")
        assert not link.closed
        link.may_close.set()
        await connection.close()


async def test_closing_waits_for_the_link(link: Link) -> None:
    """What waits fails at once; the client waits until the link is closed."""
    connection = connect(link)
    pending = await connection.send("1", b"k", b"{}")
    closing = asyncio.create_task(connection.close())
    async with deadline("it is closing"):
        await link.closing.wait()
    with pytest.raises(BrokerUnavailableError, match="the client is closed"):
        await pending
    assert not closing.done()
    link.may_close.set()
    await closing


async def test_a_partition_is_read_while_a_reply_is_awaited(link: Link) -> None:
    """A caller that gives up, and one whose request cannot be sent, await nothing more."""
    connection = connect(link)
    reply = await connection.send("1", b"k", b"{}")
    assert link.awaited == [PLACE]
    with pytest.raises(InvalidRequestError):
        await connection.send("1", b"k", b"{}")
    assert link.awaited == [PLACE]
    reply.cancel()
    await asyncio.sleep(0)
    assert link.awaited == []
    link.may_close.set()
    await connection.close()


async def test_a_request_on_an_open_connection_does_not_wait_for_it(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each wait adds and removes callbacks of shared futures: quadratic in the concurrent requests."""
    connection = connect(link)
    await connection.connected()
    with monkeypatch.context() as patch:
        patch.setattr(connection, "connected", None)
        await connection.send("1", b"k", b"{}")
    link.may_close.set()
    await connection.close()
