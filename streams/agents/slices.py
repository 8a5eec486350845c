"""The agent on a topic that is read in slices: requests, and promotions."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import faust

from streams.ledger import Slice

SliceHandler = Callable[[Slice], Awaitable[None]]


def slice_agent(
    app: faust.App,
    topic: str,
    handle: SliceHandler,
    *,
    slices_in_flight: int,
    on_fault: Callable[[BaseException], None],
) -> None:
    """Add the agent to an app.

    Up to `slices_in_flight` slices are handled at once; with one, they are handled in order. A slice
    is acknowledged when `handle` returns, and only then; when it raises, `on_fault` is told and must
    end the process, since the slice comes again only to a process that starts anew.
    """
    slots = asyncio.Semaphore(slices_in_flight)
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
            slots.release()

    async def read(stream: Any) -> None:
        async for event in stream.noack().events():
            await slots.acquire()
            task = asyncio.create_task(handle_one(event))
            handling.add(task)
            task.add_done_callback(handling.discard)

    app.agent(app.topic(topic, key_serializer="raw", value_serializer="raw"))(read)
