"""Requests to a worker with the answers to them, the dead letters, and what was counted."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import orjson
from aiokafka import AIOKafkaProducer

from schemas.events import MetricsDelta, PredictResponse
from streams.config.settings import Settings
from tests.support.kafka.topic_log import TopicLog, topic_log

PARTITIONS = 2


class Asking:
    """Asks by requests to each partition in turn."""

    def __init__(self, settings: Settings, log: TopicLog, producer: AIOKafkaProducer) -> None:
        self._settings = settings
        self._log = log
        self._producer = producer
        self._numbers = itertools.count()
        self._read = 0
        self._answers: dict[str, PredictResponse] = {}

    async def ask(
        self, model: str, xs: Sequence[Any], *, users: Sequence[str] = ("u",), **fields: Any
    ) -> list[PredictResponse]:
        """Send a request for each `x`, by the users in turn, and wait for all answers; in the same order."""
        return await self.answers(await self.send(model, xs, users=users, **fields))

    async def send(
        self, model: str, xs: Sequence[Any], *, users: Sequence[str] = ("u",), **fields: Any
    ) -> list[str]:
        """Send a request for each `x`, by the users in turn; their ids, when all are in the topic."""
        ids, deliveries = [], []
        for user, x in zip(itertools.cycle(users), xs, strict=False):
            number = next(self._numbers)
            request = {
                "request_id": str(number),
                "model_name": model,
                "user_id": user,
                "input": {"x": x},
                **fields,
            }
            ids.append(str(number))
            deliveries.append(
                await self._producer.send(
                    self._settings.topic_requests, orjson.dumps(request), partition=number % PARTITIONS
                )
            )
        await asyncio.gather(*deliveries)
        return ids

    def places(self) -> list[tuple[bytes, bytes]]:
        """The source and the topic's id of the request of each response so far."""
        headers = [dict(record.headers) for record in self._log.of(self._settings.topic_responses)]
        return [(each["headrace-source"], each["headrace-topic-id"]) for each in headers]

    async def answers(self, ids: Sequence[str]) -> list[PredictResponse]:
        """Wait for the answers to requests with these ids; in the same order."""
        await self._log.until(lambda: self._take_in() >= set(ids), f"answers to {len(ids)} requests")
        return [self._answers[request_id] for request_id in ids]

    async def ended(self) -> None:
        """Read all that the worker has written, after its end; each request has one answer."""
        await self._log.to_end()
        assert len(self._take_in()) == len(self._log.of(self._settings.topic_responses))

    def letters(self) -> dict[str, dict[str, bytes]]:
        """The headers of the dead letters that were read, by the id of their request."""
        records = self._log.of(self._settings.topic_dead_letters)
        letters = {orjson.loads(record.value)["request_id"]: dict(record.headers) for record in records}
        assert len(letters) == len(records)
        return letters

    def deltas(self, model: str) -> list[MetricsDelta]:
        """What was counted for a model, as far as it was read."""
        records = self._log.of(self._settings.topic_metrics)
        deltas = [MetricsDelta.model_validate_json(record.value) for record in records]
        return [delta for delta in deltas if delta.model_name == model]

    def _take_in(self) -> set[str]:
        records = self._log.of(self._settings.topic_responses)
        for record in records[self._read :]:
            response = PredictResponse.model_validate_json(record.value)
            self._answers[response.request_id] = response
        self._read = len(records)
        return set(self._answers)


@asynccontextmanager
async def asking(settings: Settings) -> AsyncIterator[Asking]:
    """Ask the workers with these settings, whose topics have PARTITIONS partitions."""
    topics = (settings.topic_responses, settings.topic_dead_letters, settings.topic_metrics)
    async with (
        topic_log(settings.kafka_bootstrap, *topics) as log,
        AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap) as producer,
    ):
        yield Asking(settings, log, producer)
