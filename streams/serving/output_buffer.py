"""The predictions that Kafka does not have yet, in bytes, over all slices of a worker.

Responses with predictions enter the buffer before they are encoded, and leave it when the broker has them. While some
wait to enter, or as many predictions wait for their slice as the buffer takes, no model is called: the models give more
than the broker takes. Without that, a slow broker would make the worker keep the predictions of all slices in flight.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence

# What is encoded at once.
PIECE_BYTES = 1024 * 1024
# The ids, names and headers of a response.
RESPONSE_OVERHEAD_BYTES = 256


class OutputBuffer:
    """Room for `size_bytes`; an empty buffer takes a larger response too, so that each is sent at last."""

    def __init__(self, size_bytes: int) -> None:
        self._size_bytes = size_bytes
        self.used_bytes = 0
        # Of predictions that their slices have not taken: a slice that waits for the broker takes none.
        self._offered_bytes = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._when_open: list[Callable[[], None]] = []

    @property
    def is_open(self) -> bool:
        """False while responses wait to enter, or too many predictions wait for their slices."""
        return not self._waiting and self._offered_bytes < self._size_bytes

    def offered(self, size_bytes: int) -> None:
        """Predictions wait for their slice; with a negative size they wait no more."""
        self._offered_bytes += size_bytes
        if size_bytes < 0:
            self._open()

    def when_open(self, call: Callable[[], None]) -> None:
        """Call once when no response waits any more."""
        self._when_open.append(call)

    def enters_at_once(self, size_bytes: int) -> bool:
        """Take the bytes if there is room and nothing waits; False when they must wait."""
        if self._waiting or not self._fits(size_bytes):
            return False
        self.used_bytes += size_bytes
        return True

    async def enter(self, size_bytes: int) -> None:
        """Wait for room, in turn."""
        if self.enters_at_once(size_bytes):
            return
        entered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        place = size_bytes, entered
        self._waiting.append(place)
        try:
            await entered
        except asyncio.CancelledError:
            # The future is cancelled before this runs; `leave` may have dropped the place in between.
            if place in self._waiting:
                self._waiting.remove(place)
            self.leave(0 if entered.cancelled() else size_bytes)
            raise

    def leave(self, size_bytes: int) -> None:
        """The broker has the bytes, or they are sent no more."""
        self.used_bytes -= size_bytes
        while self._waiting and self._fits(self._waiting[0][0]):
            entering, entered = self._waiting.popleft()
            if not entered.done():
                self.used_bytes += entering
                entered.set_result(None)
        self._open()

    def _open(self) -> None:
        if self._when_open and self.is_open:
            calls, self._when_open = self._when_open, []
            for call in calls:
                call()

    def _fits(self, size_bytes: int) -> bool:
        return not self.used_bytes or self.used_bytes + size_bytes <= self._size_bytes


def pieces(predictions: Sequence[bytes]) -> Iterator[tuple[int, int, int]]:
    """PURE. Where to cut predictions so that about `PIECE_BYTES` are encoded at once: starts, stops and bytes."""
    size = sum(map(len, predictions)) + RESPONSE_OVERHEAD_BYTES * len(predictions)
    if size <= PIECE_BYTES:
        # Nearly always.
        yield 0, len(predictions), size
        return
    start = size = 0
    for at, prediction in enumerate(predictions):
        own = len(prediction) + RESPONSE_OVERHEAD_BYTES
        if size and size + own > PIECE_BYTES:
            yield start, at, size
            start, size = at, 0
        size += own
    yield start, len(predictions), size
