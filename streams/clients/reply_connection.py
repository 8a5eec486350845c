"""Request/reply over Kafka: one producer of requests and one reader of the reply topic."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic

from schemas.errors import BrokerUnavailableError, HeadraceError
from schemas.events import JsonObject
from streams.clients.pending_replies import PendingReplies, Reply
from streams.config.settings import Settings
from streams.kafka.errors import kafka_errors
from streams.kafka.producer import Producer, open_producer
from streams.kafka.tail import Tail, open_tail


@dataclass(frozen=True, slots=True)
class ReplyProtocol(Generic[Reply]):
    """The topics of one kind of request, and how a reply names its request; see `PendingReplies`."""

    request_topic: str
    reply_topic: str
    id_field: str
    parse: Callable[[JsonObject, bytes], Reply]
    conflict: Callable[[str], HeadraceError]
    """The error for a request whose correlation id is pending already."""


class ReplyConnection(Generic[Reply]):
    """Connects in the background from its creation, and serves many tasks until it breaks or is closed.

    Closing waits at most `close_seconds` for requests that are not delivered.
    """

    def __init__(self, settings: Settings, protocol: ReplyProtocol[Reply], *, close_seconds: float) -> None:
        self._settings = settings
        self._protocol = protocol
        self._close_seconds = close_seconds
        self._pending = PendingReplies(protocol.id_field, protocol.parse)
        self._connected: asyncio.Future[Producer] = asyncio.get_running_loop().create_future()
        self._running = asyncio.create_task(self._run())
        self._running.add_done_callback(retrieve_exception)

    @property
    def is_broken(self) -> bool:
        """True when the connection has failed or is closed, and has stopped; it does not connect again."""
        return self._running.done()

    async def connected(self) -> Producer:
        """Wait for the connection; raises BrokerUnavailableError within 10 s, SetupError when a topic is missing."""
        await asyncio.wait([self._connected, self._running], return_when=asyncio.FIRST_COMPLETED)
        if self._connected.done():
            return self._connected.result()
        if self._running.cancelled():
            raise BrokerUnavailableError("the client is closed")
        raise self._running.exception() or AssertionError("it runs until it fails or is cancelled")

    async def send(self, correlation_id: str, key: bytes, value: bytes) -> asyncio.Future[Reply]:
        """Send a request; returns the future of its reply, which the caller cancels when it gives up.

        Raises the protocol's conflict, what `connected` raises, and InvalidRequestError when the topic takes no
        record of this size. The future fails with the same errors, and with those of the protocol's `parse`.
        """
        # Without a wait on an open connection: each wait adds a callback to the futures that all requests share.
        producer = self._connected.result() if self._connected.done() else await self.connected()
        if correlation_id in self._pending:
            raise self._protocol.conflict(correlation_id)
        reply = self._pending.expect(correlation_id, key)
        topic = self._protocol.request_topic
        try:
            with kafka_errors(self._settings.kafka_bootstrap, topic):
                delivery = await producer.send(topic, value, key=key)
        except BaseException:  # the caller's cancellation must not leave a future behind either
            reply.cancel()
            raise
        delivery.add_done_callback(partial(self._on_delivery, reply))
        return reply

    async def close(self) -> None:
        """Close the connection; pending requests fail with BrokerUnavailableError."""
        self._running.cancel()
        await asyncio.wait([self._running])

    async def _run(self) -> None:
        # Requests fail with the cause before the connections are closed, which may take seconds.
        async with self._opened() as (tail, producer):
            with self._pending.closing():
                self._connected.set_result(producer)
                while True:
                    for record in await tail.next_records():
                        self._pending.deliver(record.key, record.value)

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[tuple[Tail, Producer]]:
        """Open and close both concurrently, because operators wait for it."""
        settings, protocol = self._settings, self._protocol
        reader, writer = AsyncExitStack(), AsyncExitStack()
        try:
            try:
                # A request is sent only when both are open: the reader must see its reply.
                async with asyncio.TaskGroup() as opening:
                    tail = opening.create_task(
                        reader.enter_async_context(open_tail(settings, protocol.reply_topic))
                    )
                    producer = opening.create_task(
                        writer.enter_async_context(
                            open_producer(settings, protocol.request_topic, close_seconds=self._close_seconds)
                        )
                    )
            except ExceptionGroup as errors:
                raise errors.exceptions[0] from None
            yield tail.result(), producer.result()
        finally:
            await asyncio.gather(reader.aclose(), writer.aclose())

    def _on_delivery(self, reply: asyncio.Future[Reply], delivery: asyncio.Future[object]) -> None:
        if delivery.cancelled() or (error := delivery.exception()) is None or reply.done():
            return
        try:
            with kafka_errors(self._settings.kafka_bootstrap, self._protocol.request_topic):
                raise error
        except HeadraceError as translated:
            reply.set_exception(translated)


def retrieve_exception(task: asyncio.Task[Any]) -> None:
    """Done callback: asyncio logs an exception that nobody retrieves, and a caller may have stopped waiting."""
    if not task.cancelled():
        task.exception()
