"""The Faust agent that passes a topic's slices to a handler."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import faust

from streams.kafka.attempt_ledger import ATTEMPT_LIMIT
from streams.kafka.batch_reader import UnreadableBatch
from streams.kafka.offset_tracker import FULL_SLICE_WEIGHT, Slice
from streams.kafka.stepping_over import StepOver

SliceHandler = Callable[[Slice], Awaitable[None]]


def slice_agent(
    app: faust.App,
    topic: str,
    handle: SliceHandler,
    *,
    step_over: StepOver,
    slices_in_flight: int,
    in_order: bool = False,
    on_fault: Callable[[BaseException], None],
) -> None:
    """Add the agent to an app that has not started.

    The agent handles slices of up to `slices_in_flight` full slices' weight concurrently, or one slice at a time
    with `in_order`. A slice weighs less as its records are answered. The agent acknowledges a slice when `handle`
    returns. A batch that cannot be read, and a record that ended too many processes, go to `step_over` instead. When one
    of the two raises, the agent calls `on_fault`, which must end the process: Kafka delivers the slice again only after
    a restart or a rebalance.
    """
    room = _Room(slices_in_flight * FULL_SLICE_WEIGHT)
    handling: set[asyncio.Task[None]] = set()

    async def handle_one(event: Any) -> None:
        handled: Slice = event.value
        if not in_order:
            handled.on_lighter(room.lighter)
        try:
            first = handled.records[0]
            if type(first) is UnreadableBatch:
                await step_over.unreadable(handled, first)
            elif handled.attempt > ATTEMPT_LIMIT:
                await step_over.abandoned(handled)
            else:
                await handle(handled)
            event.ack()
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001  # any failure must end the process
            on_fault(error)
        finally:
            room.leave(room.size if in_order else handled.weight)

    async def read(stream: Any) -> None:
        async for event in stream.noack().events():
            await room.enter(room.size if in_order else event.value.weight)
            task = asyncio.create_task(handle_one(event))
            handling.add(task)
            task.add_done_callback(handling.discard)

    app.agent(app.topic(topic, key_serializer="raw", value_serializer="raw"))(read)


class _Room:
    """A semaphore of weights: admits slices in their order while there is room for their weight."""

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

    def lighter(self, _: Slice, lost: int) -> None:
        self.leave(lost)
