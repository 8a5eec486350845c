"""Steady traffic with an account of it: every request that was sent, every response that was written."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import orjson
from aiokafka import AIOKafkaProducer

from schemas.events import MetricsDelta, PredictResponse
from streams.config.settings import Settings
from tests.support.kafka.topic_log import TopicLog, topic_log
from tests.support.models.served_model import predictions_of

PARTITIONS = 4
REQUESTS_A_SECOND = 250
# More than any test sends: a test that waits for answers to new requests must not run out of them.
MAX_REQUESTS = 150_000
_TICK_SECONDS = 0.02


@dataclass(frozen=True)
class Answer:
    """A response, and when it was made (Unix milliseconds)."""

    source: str
    partition: int
    at_ms: int
    response: PredictResponse


class Traffic:
    """Requests 0, 1, 2 … go to each partition in turn, with `inputs` different inputs in turn."""

    def __init__(
        self, settings: Settings, model: str, inputs: int, log: TopicLog, producer: AIOKafkaProducer
    ) -> None:
        self.sent: list[asyncio.Future[Any]] = []
        """Of each request, its place once the broker has it."""
        self.answers: dict[int, list[Answer]] = defaultdict(list)
        """By the request's number; more than one where a response was repeated."""
        self._settings = settings
        self._model = model
        self._inputs = inputs
        self._log = log
        self._producer = producer
        self._read = 0
        self._stopping = asyncio.Event()
        self._sending = asyncio.create_task(self._send())

    async def until(self, done: Callable[[], object], what: str) -> None:
        """Wait until `done` is true; it is asked whenever something was read."""

        def looked() -> object:
            self._take_in()
            return done()

        await self._log.until(looked, what)

    async def until_answered(
        self, like: Callable[[PredictResponse], object] = lambda _: True, what: str = "any"
    ) -> None:
        """Wait until requests that are sent from now on have answers like this on every partition."""
        first = len(self.sent)

        def on_all_partitions() -> bool:
            answered = {
                number % PARTITIONS
                for number in range(first, len(self.sent))
                if any(like(answer.response) for answer in self.answers.get(number, ()))
            }
            return len(answered) == PARTITIONS

        await self.until(
            on_all_partitions, f"answers ({what}) on every partition to requests sent from now on"
        )

    async def until_served_by(self, *workers: str) -> None:
        """Wait until each of these workers has answered requests since now."""
        first = len(self._log.of(self._settings.topic_metrics))

        def all_did() -> bool:
            return {delta.worker for delta in self.deltas(first) if delta.requests} >= set(workers)

        await self.until(all_did, f"metrics of {workers}")

    def deltas(self, first: int = 0) -> list[MetricsDelta]:
        """The metrics that were read so far, without the first ones."""
        records = self._log.of(self._settings.topic_metrics)[first:]
        return [MetricsDelta.model_validate_json(record.value) for record in records]

    async def end(self) -> int:
        """Stop sending, wait until every request is answered, and check each; how many were repeated."""
        self._stopping.set()
        await self._sending
        await asyncio.gather(*self.sent)
        await self.until(lambda: len(self.answers) >= len(self.sent), "an answer to every request")
        return self.check()

    def check(self) -> int:
        """Hold what was read against what was sent; how many responses were repeats."""
        self._take_in()
        assert set(self.answers) == set(range(len(self.sent)))
        for number, answers in self.answers.items():
            place = self.sent[number].result()
            for answer in answers:
                # The same for all repeats: that is how they are recognised.
                assert answer.source == f"{place.topic}/{place.partition}/{place.offset}"
                assert answer.partition == place.partition
                assert answer.response.error is None, answer.response
                expected = predictions_of(answer.response.model_version, number % self._inputs)
                assert answer.response.predictions == expected
        return sum(map(len, self.answers.values())) - len(self.sent)

    def repeated(self) -> list[int]:
        """The numbers of the requests that have more than one response."""
        return [number for number, answers in self.answers.items() if len(answers) > 1]

    def version(self, number: int) -> str:
        """The version that answered a request first."""
        return self.answers[number][0].response.model_version

    async def close(self) -> None:
        self._sending.cancel()
        await asyncio.gather(self._sending, return_exceptions=True)

    async def _send(self) -> None:
        loop = asyncio.get_running_loop()
        start = loop.time()
        while not self._stopping.is_set() and len(self.sent) < MAX_REQUESTS:
            due = min(MAX_REQUESTS, int((loop.time() - start) * REQUESTS_A_SECOND))
            for number in range(len(self.sent), due):
                await self._send_one(number)
            # It keeps the rate; nothing waits for it.
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), _TICK_SECONDS)

    async def _send_one(self, number: int) -> None:
        user = f"u{number % 500}"
        request = {
            "request_id": str(number),
            "model_name": self._model,
            "user_id": user,
            "input": {"x": number % self._inputs},
        }
        delivery = await self._producer.send(
            self._settings.topic_requests,
            orjson.dumps(request),
            key=user.encode(),
            partition=number % PARTITIONS,
        )
        self.sent.append(delivery)

    def _take_in(self) -> None:
        records = self._log.of(self._settings.topic_responses)
        for record in records[self._read :]:
            response = PredictResponse.model_validate(orjson.loads(record.value))
            if response.model_name != self._model:
                # Of traffic to another model, by the same topics.
                continue
            source = dict(record.headers)["headrace-source"].decode()
            self.answers[int(response.request_id)].append(
                Answer(source, record.partition, record.timestamp, response)
            )
        self._read = len(records)


@asynccontextmanager
async def steady_traffic(
    settings: Settings, model: str, *, inputs: int = 1_000_000
) -> AsyncIterator[Traffic]:
    """Send to a model from `served_model` until the traffic's `end`, or the end of the block."""
    producer = AIOKafkaProducer(
        bootstrap_servers=settings.kafka_bootstrap, enable_idempotence=True, request_timeout_ms=60_000
    )
    await producer.start()
    try:
        topics = (settings.topic_responses, settings.topic_metrics)
        async with topic_log(settings.kafka_bootstrap, *topics) as log:
            traffic = Traffic(settings, model, inputs, log, producer)
            try:
                yield traffic
            finally:
                await traffic.close()
    finally:
        await producer.stop()
