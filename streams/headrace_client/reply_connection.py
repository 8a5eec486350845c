"""Request/reply over Kafka: requests with their replies, over one link."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic

from .kafka_errors import KafkaErrors
from .kafka_link import Link
from .pending_replies import PendingReplies, Reply, ReplyForm


@dataclass(frozen=True, slots=True)
class ReplyProtocol(Generic[Reply]):
    """One kind of request: the topic of its requests, the form of its replies, and its errors."""

    request_topic: str
    form: ReplyForm[Reply]
    conflict: Callable[[str], Exception]
    """The error for a request whose correlation id is pending already."""
    bootstrap: str
    errors: KafkaErrors


class ReplyConnection(Generic[Reply]):
    """Connects in the background from its creation, and serves many tasks until it breaks or is closed."""

    def __init__(
        self,
        protocol: ReplyProtocol[Reply],
        open_link: Callable[[], AbstractAsyncContextManager[Link]],
    ) -> None:
        self._protocol = protocol
        self._open_link = open_link
        self._closed = protocol.errors.unavailable("the client is closed")
        self._pending = PendingReplies(protocol.form, self._closed)
        self._connected: asyncio.Future[Link] = asyncio.get_running_loop().create_future()
        self._running = asyncio.create_task(self._run())
        self._running.add_done_callback(retrieve_exception)

    @property
    def is_broken(self) -> bool:
        """True when the connection has failed or is closed, and has stopped; it does not connect again."""
        return self._running.done()

    async def connected(self) -> Link:
        """Wait for the connection; raises `unavailable` within 10 s, `setup` when a topic is missing."""
        either: list[asyncio.Future[Any]] = [self._connected, self._running]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if self._connected.done():
            return self._connected.result()
        if self._running.cancelled():
            raise self._closed
        raise self._running.exception() or AssertionError("it runs until it fails or is cancelled")

    async def send(self, correlation_id: str, key: bytes, value: bytes) -> asyncio.Future[Reply]:
        """Send a request; returns the future of its reply, which the caller cancels when it gives up.

        Raises the protocol's conflict, what `connected` raises, and `too_large` when the topic takes no
        record of this size. The future fails with the same errors, and with those of the form's `parse`.
        """
        # Without a wait on an open connection: each wait adds a callback to the futures that all requests share.
        link = self._connected.result() if self._connected.done() else await self.connected()
        if correlation_id in self._pending:
            raise self._protocol.conflict(correlation_id)
        reply = self._pending.expect(correlation_id, key)
        try:
            with self._translated():
                place = await link.place(key)
                reply.add_done_callback(lambda _: link.end(place))
                await link.begin(place)
                delivery = await link.send(place, key, value)
        except BaseException:  # the caller's cancellation must not leave a future behind either
            reply.cancel()
            raise
        delivery.add_done_callback(partial(self._on_delivery, reply))
        return reply

    async def close(self) -> None:
        """Close the connection; pending requests fail with `unavailable`."""
        self._running.cancel()
        await asyncio.wait([self._running])

    async def _run(self) -> None:
        # Requests fail with the cause before the connections are closed, which may take seconds.
        async with self._open_link() as link:
            with self._pending.closing(), self._translated():
                self._connected.set_result(link)
                while True:
                    for record in await link.next_replies():
                        self._pending.deliver(record.key, record.value)

    def _translated(self) -> Any:
        return self._protocol.errors.translated(self._protocol.bootstrap, self._protocol.request_topic)

    def _on_delivery(self, reply: asyncio.Future[Reply], delivery: asyncio.Future[object]) -> None:
        if delivery.cancelled() or (error := delivery.exception()) is None or reply.done():
            return
        try:
            with self._translated():
                raise error  # noqa: TRY301  # to have it translated
        except Exception as translated:  # noqa: BLE001  # whatever it is, the caller gets it
            reply.set_exception(translated)


def retrieve_exception(task: asyncio.Task[Any]) -> None:
    """Done callback: asyncio logs an exception that nobody retrieves, and a caller may have stopped waiting."""
    if not task.cancelled():
        task.exception()
