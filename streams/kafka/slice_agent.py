"""The Faust agent that passes a topic's slices to a handler."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from streams.kafka.attempt_ledger import ATTEMPT_LIMIT
from streams.kafka.batch_parsing import UnreadableBatch
from streams.kafka.faust_app import WorkerApp, consumer_of
from streams.kafka.offset_tracker import FULL_SLICE_WEIGHT, Slice
from streams.kafka.slice_room import SliceRoom
from streams.kafka.stepping_over import StepOver

SliceHandler = Callable[[Slice], Awaitable[None]]


def slice_agent(
    app: WorkerApp,
    topic: str,
    handle: SliceHandler,
    *,
    step_over: StepOver,
    slices_in_flight: int,
    slices_set_aside: int = 0,
    in_order: bool = False,
    on_fault: Callable[[BaseException], None],
) -> None:
    """Add the agent to an app that has not started.

    The agent handles slices of up to `slices_in_flight` full slices' weight concurrently, or one slice at a time
    with `in_order`. A slice weighs less as its records are answered. Beside them, slices of up to `slices_set_aside`
    full slices' weight may wait for what is slow. The agent acknowledges a slice when `handle` returns. A batch that
    cannot be read, and a record that ended too many processes, go to `step_over` instead. When one of the two raises,
    the agent calls `on_fault`, which must end the process: Kafka delivers the slice again only after a restart or a
    rebalance. A slice that is handed back in a rebalance is not begun, or `handle` is cancelled.
    """
    size = 0 if in_order else slices_in_flight * FULL_SLICE_WEIGHT
    room = SliceRoom(size, slices_set_aside * FULL_SLICE_WEIGHT)
    lighter = asyncio.Event()

    async def handle_one(event: Any) -> None:
        handled: Slice = event.value
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
            room.leaves(handled)
            lighter.set()

    async def enter(entering: Slice) -> None:
        now = time.monotonic()
        while not room.enters(entering, now):
            lighter.clear()
            set_aside_in = room.next_at(now) - now
            with suppress(TimeoutError):
                await asyncio.wait_for(lighter.wait(), None if math.isinf(set_aside_in) else set_aside_in)
            now = time.monotonic()
        entering.on_lighter(lambda *_: lighter.set())

    async def read(stream: Any) -> None:
        async for event in stream.noack().events():
            await enter(event.value)
            consumer = consumer_of(app)
            if consumer.may_begin(event.value):
                consumer.in_hand.begin(handle_one(event))
            else:
                room.leaves(event.value)

    app.agent(app.topic(topic, key_serializer="raw", value_serializer="raw"))(read)
