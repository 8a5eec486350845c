# ruff: noqa: SLF001  # what a consumer leaves behind has private names only
"""The end of aiokafka's consumers, also while the broker is away."""

import asyncio

from aiokafka import AIOKafkaConsumer


async def stop_consumer(consumer: AIOKafkaConsumer) -> None:
    """Stop a consumer, whatever becomes of its fetches meanwhile.

    The library cancels the fetches that are under way and waits for them. One that has failed and waits before
    the next hands its cancellation on: whoever stops the consumer would seem to be cancelled himself, and
    its connections would stay open.
    """
    task = asyncio.current_task()
    assert task is not None  # a coroutine always runs in one
    cancelled_before = task.cancelling()
    try:
        await consumer.stop()
    except asyncio.CancelledError:
        fetches = [] if consumer._fetcher is None else list(consumer._fetcher._pending_tasks)
        for fetch in fetches:
            fetch.cancel()
        await asyncio.gather(*fetches, return_exceptions=True)
        await consumer._client.close()
        if task.cancelling() > cancelled_before:
            raise
