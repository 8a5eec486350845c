"""How many bytes of responses all model servers of a process may send at one time.

Each response has a limit of its own, and hundreds may arrive at once. So what has arrived of all of them is bounded
too: a response beyond the bound waits for others to end. One at a time is let through in any case, because responses
that all wait for the rest of each other would wait for ever. So there is at most the bound, one largest response, and
one chunk of each connection.
"""

import asyncio
from collections import deque

ROOM_BYTES = 128 * 1024 * 1024


class ResponseRoom:
    """The room that the responses of one process share."""

    def __init__(self, room_bytes: int = ROOM_BYTES) -> None:
        self._room_bytes = room_bytes
        self._used_bytes = 0
        self._first: Arrival | None = None
        self._waiting: deque[asyncio.Future[None]] = deque()

    def arrival(self) -> "Arrival":
        """A response that begins to arrive; its caller always calls `leave`."""
        return Arrival(self)

    async def _enter(self, arrival: "Arrival", size_bytes: int) -> None:
        while self._used_bytes + size_bytes > self._room_bytes and self._first is not arrival:
            if self._first is None:
                self._first = arrival
                break
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            await turn
        self._used_bytes += size_bytes

    def _leave(self, arrival: "Arrival", size_bytes: int) -> None:
        self._used_bytes -= size_bytes
        if self._first is arrival:
            self._first = None
        waiting, self._waiting = self._waiting, deque()
        for turn in waiting:
            if not turn.done():
                turn.set_result(None)


class Arrival:
    """The bytes of one response that have arrived."""

    __slots__ = ("_room", "_size_bytes")

    def __init__(self, room: ResponseRoom) -> None:
        self._room = room
        self._size_bytes = 0

    async def enter(self, size_bytes: int) -> None:
        """Take room for a chunk; waits while there is none."""
        await self._room._enter(self, size_bytes)  # noqa: SLF001  # a part of it
        self._size_bytes += size_bytes

    def leave(self) -> None:
        """Give the room back. Idempotent."""
        self._room._leave(self, self._size_bytes)  # noqa: SLF001  # a part of it
        self._size_bytes = 0
