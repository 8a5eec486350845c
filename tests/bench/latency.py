"""Latency at a fixed rate, from the moment a request was due to the moment its answer is read.

The sender is an open loop: a request that is sent late, because anything was slow, counts from when it
was due, so that no wait is left out. Sender and reader are in the harness, the same for every competitor.
"""

import asyncio
import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from .answers import LEAST_WARM_SHARE, WrongAnswerError
from .competitors import Answers, Competitor
from .rounds import RoundRunner
from .running import Running
from .workload import PARTITIONS, message, number_of

RATE_PER_SECOND = 500
SETTLING_SECONDS = 2.0
_LOST_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class LatencyRound:
    """`sent_late_p99_ms` is the harness's own share: how late it was with a request."""

    competitor: str
    requests: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    sent_late_p99_ms: float


async def latency_round(runner: RoundRunner, competitor: Competitor, seconds: float) -> LatencyRound:
    """Run a competitor under a steady load; its cache, if it has one, is filled with the same inputs first.

    Raises WrongAnswerError when a request gets no answer, or a warm one not from the cache.
    """
    requests = int((SETTLING_SECONDS + seconds) * RATE_PER_SECOND)
    async with runner.warmed_up(competitor, requests) as (source, sink, running):
        load = _Load(runner.broker.bootstrap, source, sink, requests)
        with _no_collector():
            await load.run(running, competitor)
    load.check(competitor)
    settled = int(SETTLING_SECONDS * RATE_PER_SECOND)
    late_ms = (load.sent - load.due)[settled:] * 1000
    took_ms = (load.answered - load.due)[settled:] * 1000
    return LatencyRound(
        competitor.name,
        len(took_ms),
        float(np.percentile(took_ms, 50)),
        float(np.percentile(took_ms, 99)),
        float(took_ms.max()),
        float(np.percentile(late_ms, 99)),
    )


class _Load:
    """Sends at the rate and reads the answers; times are of `time.monotonic`, in seconds."""

    def __init__(self, bootstrap: str, source: str, sink: str, requests: int) -> None:
        self._bootstrap = bootstrap
        self._source = source
        self._sink = sink
        self._messages = [message(number) for number in range(requests)]
        self.due = np.zeros(requests)
        self.sent = np.zeros(requests)
        self.answered = np.zeros(requests)
        self._answers: list[bytes] = []

    async def run(self, running: Running, competitor: Competitor) -> None:
        producer = AIOKafkaProducer(bootstrap_servers=self._bootstrap)
        consumer = AIOKafkaConsumer(bootstrap_servers=self._bootstrap, enable_auto_commit=False)
        async with producer, consumer:
            partitions = [TopicPartition(self._sink, number) for number in range(PARTITIONS)]
            consumer.assign(partitions)
            # What is there by now are the answers of the warm-up.
            for partition, end in (await consumer.end_offsets(partitions)).items():
                consumer.seek(partition, end)
            reading = asyncio.create_task(self._read(consumer))
            await self._send(producer)
            try:
                await asyncio.wait_for(reading, _LOST_SECONDS)
            except TimeoutError:
                lost = int((self.answered == 0).sum())
                raise WrongAnswerError(
                    f"{competitor.name}: {lost} requests have no answer:\n{running.log_end}"
                ) from None

    def check(self, competitor: Competitor) -> None:
        """Whether they are the answers that were asked for; apart, because it takes time."""
        documents = [orjson.loads(value) for value in self._answers]
        for document, value in zip(documents, self._answers, strict=True):
            number = number_of(document["request_id"])
            if "error" in document or (competitor.answers is Answers.ECHO and value != message(number).value):
                raise WrongAnswerError(f"{competitor.name}: request {number} is answered with {value!r}")
        hits = sum(document.get("cached", True) for document in documents)
        if hits < LEAST_WARM_SHARE * len(documents):
            raise WrongAnswerError(f"{competitor.name}: {hits} of {len(documents)} came from the cache")

    async def _send(self, producer: AIOKafkaProducer) -> None:
        start = time.monotonic() + 0.1
        for number, request in enumerate(self._messages):
            due = start + number / RATE_PER_SECOND
            delay = due - time.monotonic()
            if delay > 0:
                await asyncio.sleep(delay)
            self.due[number] = due
            self.sent[number] = time.monotonic()
            await producer.send(self._source, request.value, key=request.key, partition=request.partition)

    async def _read(self, consumer: AIOKafkaConsumer) -> None:
        while len(self._answers) < len(self._messages):
            fetched = await consumer.getmany(timeout_ms=1000)
            now = time.monotonic()
            for records in fetched.values():
                for record in records:
                    self.answered[number_of(orjson.loads(record.value)["request_id"])] = now
                    self._answers.append(record.value)


@contextmanager
def _no_collector() -> Iterator[None]:
    """The harness's own pauses are not the competitor's."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
