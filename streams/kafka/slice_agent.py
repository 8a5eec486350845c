"""The agent on a topic that is read in slices: requests, and promotions."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import faust

from streams.kafka.offset_tracker import FULL_SLICE_WEIGHT, Slice

SliceHandler = Callable[[Slice], Awaitable[None]]


def slice_agent(
    app: faust.App,
    topic: str,
    handle: SliceHandler,
    *,
    slices_in_flight: int,
    in_order: bool = False,
    on_fault: Callable[[BaseException], None],
) -> None:
    """Add the agent to an app.

    Slices that weigh up to `slices_in_flight` whole ones are handled at once, or one after the other
    `in_order`. A slice is acknowledged when `handle` returns, and only then; when it raises, `on_fault` is
    told and must end the process, since the slice comes again only to a process that starts anew.
    """
    room = _Room(slices_in_flight * FULL_SLICE_WEIGHT)
    handling: set[asyncio.Task[None]] = set()

    async def handle_one(event: Any) -> None:
        try:
            await handle(event.value)
            event.ack()
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001  # whatever it is, the process must end by it
            on_fault(error)
        finally:
            room.leave(room.size if in_order else event.value.weight)

    async def read(stream: Any) -> None:
        async for event in stream.noack().events():
            await room.enter(room.size if in_order else event.value.weight)
            task = asyncio.create_task(handle_one(event))
            handling.add(task)
            task.add_done_callback(handling.discard)

    app.agent(app.topic(topic, key_serializer="raw", value_serializer="raw"))(read)


class _Room:
    """Lets slices in, one after the other, while there is room for their weight."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._free = size
        self._left = asyncio.Event()

    async def enter(self, weight: int) -> None:
        while self._free < weight:
            self._left.clear()
            await self._left.wait()
        self._free -= weight

    def leave(self, weight: int) -> None:
        self._free += weight
        self._left.set()
