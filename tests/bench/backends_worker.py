"""A worker on Kafka before model servers: its latency at low load, and one version's while the other's server hangs.

Requests are sent by an open loop, and each asks for another example: no answer comes from the cache.
"""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import orjson
from aiokafka import AIOKafkaProducer

from registry.store import RegistryStore
from schemas.events import JsonObject
from streams.config.settings import Settings
from streams.kafka.tail import open_tail

from .answers import WrongAnswerError
from .backends_figures import Hang, Latency
from .backends_targets import Target
from .backends_throughput import direct_client
from .registry_environment import apply
from .workload import PARTITIONS, number_of, request_id, user_id

LOW_PER_SECOND = 20
HANG_PER_SECOND = 200
# The first requests of a round find connections and caches cold.
_SETTLING_SHARE = 0.1
_ANSWER_SECONDS = 30.0
_PROBE_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Answer:
    """A response; `whole_ms` is from when its request was due to when it was read."""

    document: JsonObject
    whole_ms: float

    @property
    def version(self) -> str:
        return str(self.document["model_version"])

    @property
    def latency_ms(self) -> float:
        return float(self.document["latency_ms"])

    @property
    def failed(self) -> bool:
        return "error" in self.document


class Requests:
    """Requests to a worker, each with the future of its answer."""

    def __init__(self, settings: Settings, producer: AIOKafkaProducer) -> None:
        self._topic = settings.topic_requests
        self._producer = producer
        self._numbers = itertools.count()
        self._waiting: dict[int, tuple[float, asyncio.Future[Answer]]] = {}

    async def send(self, model: str, target: Target, due: float) -> tuple[int, asyncio.Future[Answer]]:
        """Request a prediction of a new example at `due`, in the time of the event loop."""
        number = next(self._numbers)
        answered = asyncio.get_running_loop().create_future()
        self._waiting[number] = due, answered
        request = {
            "request_id": request_id(number),
            "model_name": model,
            "user_id": user_id(number),
            "input": target.example(number),
        }
        await self._producer.send(self._topic, orjson.dumps(request), partition=number % PARTITIONS)
        return number, answered

    def take(self, value: bytes) -> None:
        """Give a response to the task that waits for it."""
        now = asyncio.get_running_loop().time()
        document = orjson.loads(value)
        due, answered = self._waiting.pop(number_of(document["request_id"]), (now, None))
        if answered is not None and not answered.done():
            answered.set_result(Answer(document, (now - due) * 1000))


@asynccontextmanager
async def requests(settings: Settings) -> AsyncIterator[Requests]:
    """Requests on the topics of `settings`, which only this benchmark uses."""
    async with (
        AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap) as producer,
        open_tail(settings, settings.topic_responses) as responses,
    ):
        made = Requests(settings, producer)

        async def read() -> None:
            while True:
                for record in await responses.next_records():
                    assert record.value is not None
                    made.take(record.value)

        reading = asyncio.create_task(read())
        try:
            yield made
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)


@dataclass(frozen=True, slots=True)
class Model:
    """A registered model: version `a` behind the first target, and once there are two, `b` behind the second."""

    name: str
    store: RegistryStore
    requests: Requests

    async def serve(self, target: Target) -> None:
        """Have the worker answer by a version of a target alone."""
        await self._register("a", target)
        await apply(self.store, "promote", self.name, version="a")
        await self._answers(target, {"a"})

    async def split(self, target: Target) -> None:
        """Have half of the users answered by another version, that of a target."""
        await self._register("b", target)
        await apply(self.store, "canary", self.name, version="b", weight=50)
        await self._answers(target, {"a", "b"})

    async def latency(self, target: Target, seconds: float) -> Latency:
        """A request to the worker, a call to its server by ourselves, and so on, evenly spread."""
        loop, count = asyncio.get_running_loop(), int(seconds * LOW_PER_SECOND)
        direct_ms: list[float] = []
        answers = []
        async with direct_client() as client:
            start = loop.time() + 0.1
            for index in range(count):
                due = start + index / LOW_PER_SECOND
                await _until(due)
                number, answered = await self.requests.send(self.name, target, due)
                answers.append((number, answered))
                await _until(due + 0.5 / LOW_PER_SECOND)
                called = time.perf_counter()
                response = await client.post(target.call_url, content=target.write([target.example(number)]))
                read = target.read(response.content)
                direct_ms.append((time.perf_counter() - called) * 1000)
                if response.status_code != httpx.codes.OK or len(read) != 1:
                    raise WrongAnswerError(f"{target.call_url} answers {response.status_code}")
        worker_ms = [answer.latency_ms for answer in await self._checked(target, answers)]
        settled = int(_SETTLING_SHARE * count)
        return Latency(_percentile(worker_ms[settled:], 50), _percentile(direct_ms[settled:], 50))

    async def hang(self, targets: Sequence[Target], seconds: float) -> Hang:
        """Version `a` under a steady load while the server of `b` is well, and while it hangs from the start on."""
        well = await self._load(targets[0], seconds)
        if any(answer.failed for answer in well):
            raise WrongAnswerError(f"{self.name}: a request failed while all was well")
        targets[1].server.pause()
        try:
            hung = await self._load(targets[0], seconds)
        finally:
            targets[1].server.resume()
        await self._answers(targets[0], {"a", "b"})
        of_a = [[answer for answer in answers if answer.version == "a"] for answers in (well, hung)]
        latency_ms = [_percentile([answer.latency_ms for answer in answers], 99) for answers in of_a]
        whole_ms = [_percentile([answer.whole_ms for answer in answers], 99) for answers in of_a]
        return Hang(latency_ms[0], latency_ms[1], whole_ms[0], whole_ms[1])

    async def _register(self, version: str, target: Target) -> None:
        await apply(self.store, "register", self.name, model=target.spec(version))

    async def _load(self, target: Target, seconds: float) -> list[Answer]:
        loop = asyncio.get_running_loop()
        start = loop.time() + 0.1
        answers = []
        for index in range(int(seconds * HANG_PER_SECOND)):
            due = start + index / HANG_PER_SECOND
            await _until(due)
            answers.append(await self.requests.send(self.name, target, due))
        return await self._checked(target, answers, may_fail="b")

    async def _checked(
        self,
        target: Target,
        answers: Sequence[tuple[int, asyncio.Future[Answer]]],
        *,
        may_fail: str | None = None,
    ) -> list[Answer]:
        """All answers, when the last is there; raises WrongAnswerError where one is not right."""
        _, missing = await asyncio.wait([answered for _, answered in answers], timeout=_ANSWER_SECONDS)
        if missing:
            raise WrongAnswerError(f"{self.name}: {len(missing)} of {len(answers)} requests have no answer")
        checked = []
        for number, answered in answers:
            answer = answered.result()
            right = answer.document.get("predictions") == target.predictions(number)
            if not right and not (answer.failed and answer.version == may_fail):
                raise WrongAnswerError(f"{self.name}: request {number} is answered with {answer.document}")
            checked.append(answer)
        return checked

    async def _answers(self, target: Target, versions: set[str]) -> None:
        """Wait until all these versions answer."""
        heard: set[str] = set()
        last: Any = None
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                while heard < versions:
                    _, answered = await self.requests.send(
                        self.name, target, asyncio.get_running_loop().time()
                    )
                    last = (await answered).document
                    if "error" not in last:
                        heard.add(last["model_version"])
                    else:
                        await asyncio.sleep(_PROBE_SECONDS)
        except TimeoutError:
            raise WrongAnswerError(
                f"{self.name}: {versions} do not answer; the last answer: {last}"
            ) from None


async def _until(when: float) -> None:
    delay = when - asyncio.get_running_loop().time()
    if delay > 0:
        await asyncio.sleep(delay)


def _percentile(values: Sequence[float], percent: float) -> float:
    return float(np.percentile(values, percent))
