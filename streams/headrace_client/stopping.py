# ruff: noqa: SLF001  # the fetch tasks and the client of a consumer have private names only
"""Stops aiokafka's consumers reliably, also while the broker is unreachable."""

import asyncio

from aiokafka import AIOKafkaConsumer


async def stop_consumer(consumer: AIOKafkaConsumer) -> None:
    """Stop a consumer and close its connections, also when one of its fetches has failed.

    aiokafka cancels the pending fetches and waits for them. A fetch that failed and pauses before its next try
    raises its CancelledError to the caller of `stop`; the caller would then seem cancelled, and the consumer's
    connections would stay open.
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
