"""Matches records of a reply topic to the callers that wait for them."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

Reply = TypeVar("Reply")
JsonObject = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ReplyForm(Generic[Reply]):
    """How a reply is read; `id_field` of a reply names its request.

    `read` returns a record's JSON object, or None. `parse` makes a reply from the object and the record's bytes; what
    it raises for a reply that breaks the contract is raised to the caller.
    """

    id_field: str
    read: Callable[[bytes | None], JsonObject | None]
    parse: Callable[[JsonObject, bytes], Reply]


class PendingReplies(Generic[Reply]):
    """One future per request without a reply. `closed` is the error of requests after the end."""

    def __init__(self, form: ReplyForm[Reply], closed: Exception) -> None:
        self._form = form
        self._closed = closed
        self._futures: dict[str, asyncio.Future[Reply]] = {}
        self._keys: Counter[bytes] = Counter()
        self._close_error: Exception | None = None

    def __contains__(self, correlation_id: str) -> bool:
        return correlation_id in self._futures

    def expect(self, correlation_id: str, key: bytes) -> asyncio.Future[Reply]:
        """The future of the reply to a request that the caller sends next; the reply has the same Kafka key, or none.

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
        # Parsing is the expensive part, and most replies of a busy topic belong to other clients. A reply that was too
        # large for its topic comes without its key.
        if not self._futures or (key is not None and key not in self._keys):
            return
        document = self._form.read(value)
        correlation_id = None if document is None else document.get(self._form.id_field)
        reply = self._futures.get(correlation_id) if isinstance(correlation_id, str) else None
        # A reply may be written twice; the first one counts.
        if document is None or reply is None or reply.done():
            return
        try:
            reply.set_result(self._form.parse(document, value or b""))
        except Exception as error:  # noqa: BLE001  # the caller's, who gave `parse`
            reply.set_exception(error)

    @contextmanager
    def closing(self) -> Iterator[None]:
        """Fail all pending and all later requests when the block ends: with its exception, if it raises one."""
        close_error = self._closed
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
