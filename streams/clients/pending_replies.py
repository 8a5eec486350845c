"""Matches records of a reply topic to the callers that wait for them."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Generic, TypeVar

from schemas.errors import BrokerUnavailableError, HeadraceError, MalformedRecordError
from schemas.events import JsonObject
from schemas.wire import read_object

Reply = TypeVar("Reply")


class PendingReplies(Generic[Reply]):
    """One future per request without a reply; `id_field` of a reply names its request.

    `parse` makes a reply from a record's JSON object and its bytes, and raises HeadraceError for a reply that
    breaks the contract; the caller then gets that error.
    """

    def __init__(self, id_field: str, parse: Callable[[JsonObject, bytes], Reply]) -> None:
        self._id_field = id_field
        self._parse = parse
        self._futures: dict[str, asyncio.Future[Reply]] = {}
        self._keys: Counter[bytes] = Counter()
        self._close_error: Exception | None = None

    def __contains__(self, correlation_id: str) -> bool:
        return correlation_id in self._futures

    def expect(self, correlation_id: str, key: bytes) -> asyncio.Future[Reply]:
        """The future of the reply to a request that the caller sends next; the reply has the same Kafka key.

        A caller that gives up cancels the future. Raises the error that `closing` closed with.
        """
        if self._close_error is not None:
            raise self._close_error
        assert correlation_id not in self
        reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._futures[correlation_id] = reply
        self._keys[key] += 1
        reply.add_done_callback(partial(self._remove, correlation_id, key))
        return reply

    def deliver(self, key: bytes | None, value: bytes | None) -> None:
        """Complete the future that a record of the reply topic belongs to; ignores all other records."""
        # Parsing is the expensive part, and most replies of a busy topic belong to other clients.
        if key not in self._keys:
            return
        try:
            document = read_object(value)
        except MalformedRecordError:
            return
        correlation_id = document.get(self._id_field)
        reply = self._futures.get(correlation_id) if isinstance(correlation_id, str) else None
        # A reply may be written twice; the first one counts.
        if reply is None or reply.done():
            return
        try:
            reply.set_result(self._parse(document, value or b""))
        except HeadraceError as error:
            reply.set_exception(error)

    @contextmanager
    def closing(self) -> Iterator[None]:
        """Fail all pending and all later requests when the block ends: with its exception, if it raises one."""
        close_error: Exception = BrokerUnavailableError("the client is closed")
        try:
            yield
        except Exception as error:
            close_error = error
            raise
        finally:
            self._close_error = close_error
            for reply in self._futures.values():
                if not reply.done():
                    reply.set_exception(close_error)

    def _remove(self, correlation_id: str, key: bytes, reply: asyncio.Future[Reply]) -> None:
        if not reply.cancelled():
            # Retrieves the exception, which asyncio would log if the caller has stopped waiting.
            reply.exception()
        del self._futures[correlation_id]
        self._keys[key] -= 1
        if not self._keys[key]:
            del self._keys[key]
