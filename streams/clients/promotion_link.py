"""Promotion events to Kafka and their results back, over one connection."""

import asyncio
from typing import Any, TypeVar

from aiokafka import AIOKafkaProducer
from pydantic import ValidationError

from schemas.errors import (
    BrokerUnavailableError,
    MalformedRecordError,
    PromotionRejectedError,
    RejectionCode,
)
from schemas.models import PromotionEvent, PromotionResult
from schemas.validation import one_line
from schemas.wire import read_object
from streams.config.settings import Settings
from streams.kafka.errors import kafka_errors
from streams.kafka.producer import open_producer
from streams.kafka.tail import open_tail

T = TypeVar("T")

# What is not delivered by then was decided in another way, or is told to be of unknown fate.
CLOSE_SECONDS = 0.1


class PromotionLink:
    """One connection to Kafka: it publishes events and gives out their results until it breaks."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._waiting: dict[str, asyncio.Future[PromotionResult]] = {}
        loop = asyncio.get_running_loop()
        self._producer: asyncio.Future[AIOKafkaProducer] = loop.create_future()
        self._reading: asyncio.Future[None] = loop.create_future()
        self._running = asyncio.create_task(self._run())
        self._running.add_done_callback(seen)

    @property
    def broken(self) -> bool:
        return self._running.done()

    async def close(self) -> None:
        """End the connection; whoever waits for a result is told so."""
        self._running.cancel()
        await asyncio.wait([self._running])

    async def decide(self, event: PromotionEvent, value: bytes) -> PromotionResult:
        """Publish an event and await its result; raises what ends the connection."""
        if event.event_id in self._waiting:
            raise PromotionRejectedError(
                RejectionCode.EVENT_CONFLICT, f"event {event.event_id} is being decided already"
            )
        waiting = self._waiting[event.event_id] = asyncio.get_running_loop().create_future()
        try:
            # The reader too: nothing is sent before its result could be seen.
            await self._unless_it_breaks(self._reading)
            producer = await self._unless_it_breaks(self._producer)
            with kafka_errors(self._settings, self._settings.topic_promotions):
                await producer.send_and_wait(
                    self._settings.topic_promotions, value, key=event.model_name.encode()
                )
            return await self._unless_it_breaks(waiting)
        finally:
            del self._waiting[event.event_id]

    async def _unless_it_breaks(self, awaited: asyncio.Future[T]) -> T:
        either: list[asyncio.Future[Any]] = [awaited, self._running]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if awaited.done():
            return awaited.result()
        if self._running.cancelled():
            raise BrokerUnavailableError("the client is closed")
        raise self._running.exception() or AssertionError("it runs until it breaks")

    async def _run(self) -> None:
        try:
            # Both at once: an operator waits for them.
            async with asyncio.TaskGroup() as sides:
                sides.create_task(self._produce())
                sides.create_task(self._read())
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None

    async def _produce(self) -> None:
        topic = self._settings.topic_promotions
        async with open_producer(self._settings, topic, close_seconds=CLOSE_SECONDS) as producer:
            self._producer.set_result(producer)
            await asyncio.get_running_loop().create_future()

    async def _read(self) -> None:
        async with open_tail(self._settings, self._settings.topic_promotion_results) as tail:
            self._reading.set_result(None)
            while True:
                for record in await tail.next_records():
                    self._hear(record.value)

    def _hear(self, value: bytes | None) -> None:
        try:
            document = read_object(value)
        except MalformedRecordError:
            return  # nobody's result
        event_id = document.get("event_id")
        waiting = self._waiting.get(event_id) if isinstance(event_id, str) else None
        # A result may be written twice; the first one counts.
        if waiting is None or waiting.done():
            return
        try:
            waiting.set_result(PromotionResult.model_validate_json(value or b""))
        except ValidationError as error:
            waiting.set_exception(
                BrokerUnavailableError(
                    f"the result of {event_id} breaks the contract: {one_line(error, root='result')}"
                )
            )


def seen(task: asyncio.Task[Any]) -> None:
    """Take note of an error that nobody may ask for: it is no news then."""
    if not task.cancelled():
        task.exception()
