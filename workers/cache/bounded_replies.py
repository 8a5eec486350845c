"""Bounds the replies of Redis, before memory is taken.

redis-py takes whatever the server sends: 512 MB for one value, and as much for each of the 2,000 keys of a slice.
"""

from typing import Any

from redis.asyncio.connection import DefaultParser
from redis.exceptions import ConnectionError, InvalidResponse  # noqa: A004

# More than the cached predictions of a slice have as a rule: 2,000 values of 16 KiB each.
MAX_REPLY_BYTES = 32 * 1024 * 1024


class ReplyTooLargeError(InvalidResponse):
    """A reply has more than `MAX_REPLY_BYTES`; the connection is closed."""


class BoundedParser(DefaultParser):  # type: ignore[misc, valid-type]  # chosen by redis-py when it is imported
    """The parser of a connection to Redis; `read_response` raises ReplyTooLargeError."""

    __slots__ = ("_received_bytes",)

    async def read_response(self, *args: Any, **kwargs: Any) -> Any:
        self._received_bytes = 0
        return await super().read_response(*args, **kwargs)

    async def read_from_socket(self) -> bool:
        part = await self._stream.read(self._read_size)
        if not part:
            raise ConnectionError("Redis closed the connection")
        self._received_bytes += len(part)
        if self._received_bytes > MAX_REPLY_BYTES:
            raise ReplyTooLargeError(f"a reply of Redis has more than {MAX_REPLY_BYTES} bytes")
        self._reader.feed(part)
        return True
