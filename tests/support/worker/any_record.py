"""A whole installation that takes any record: its workers, what is sent to them, and what became of each record."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from tempfile import TemporaryDirectory
from typing import Any

import asyncpg
import orjson
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from schemas.events import JsonObject
from streams.config.settings import Settings
from tests.support.deadline import wait_until
from tests.support.kafka.any_batches import AnyBatch
from tests.support.kafka.topic_log import TopicLog, topic_log
from tests.support.metrics.deltas import delta
from tests.support.models.served_model import apply
from tests.support.promotions.events import document as event_document
from tests.support.promotions.events import event, spec
from tests.support.servers.http_server import HttpRequest, http_server, serve_doubler
from tests.support.stack.services import StackAddresses, own_database, own_topics
from tests.support.worker.kept_worker import MIB, Kept, Kill, Role, Statistics
from tests.support.worker.prediction_rows import headers_of, response
from tests.support.worker.process import StartWorker

LIMITS = {"batch_max_bytes": 16 * MIB, "fetch_max_bytes": 4 * MIB, "slices_in_flight": 2}
# A parsed record takes about ten times its bytes.
PARSED_FACTOR = 10
MODEL = "m"
OTHER_MODEL = "other"

DOCUMENTS: dict[Role, JsonObject] = {
    Role.PREDICT: {
        "request_id": "any",
        "model_name": MODEL,
        "user_id": "u",
        "input": {"x": 1},
        "deadline_ms": 60_000,
    },
    Role.CONTROL: event_document("register", OTHER_MODEL, model=spec("v1"), reason="r"),
    Role.MONITOR: delta().model_dump(mode="json"),
    Role.LOG: response(1),
}
"""What the records of an example are near to."""


def memory_bound_bytes(settings: Settings) -> int:
    """What docs/operations.md says that a process takes for what it reads of one partition."""
    in_flight = 2 * settings.slices_in_flight * settings.fetch_max_bytes * PARSED_FACTOR
    return in_flight + 2 * settings.fetch_max_bytes + 4 * settings.batch_max_bytes


class Installation:
    """Four roles, each a process; the roles `monitor` and `log` read topics that no other role writes."""

    def __init__(
        self,
        requests: Settings,
        others: Settings,
        log: TopicLog,
        producer: AIOKafkaProducer,
        database: asyncpg.Connection,
    ) -> None:
        self._requests, self._others = requests, others
        self._log, self._producer, self._database = log, producer, database
        self._numbers = itertools.count(1)
        self.statistics = Statistics()
        self.kept: dict[Role, Kept] = {}
        self._kill_in_call = False

    async def serve(self, request: HttpRequest, writer: asyncio.StreamWriter) -> bool | None:
        """The model server: it doubles, and kills the worker in its call where an example asks for that."""
        if request.method == "POST" and self._kill_in_call:
            self._kill_in_call = False
            self.kept[Role.PREDICT].kill(Kill.CALL)
            return False
        await serve_doubler(request, writer)
        return None

    async def example(self, role: Role, batches: Sequence[AnyBatch], kill: Kill) -> None:
        """Send the batches and a good record behind them, and hold all that must become of them."""
        statistics, kept = self.statistics, self.kept[role]
        statistics.examples += 1
        topic = self._topic(role)
        self._kill_in_call = kill is Kill.CALL and role is Role.PREDICT
        taken: list[tuple[AnyBatch, int]] = []
        for batch in batches:
            try:
                sent = await (
                    await self._producer.send_batch(batch.build(self._producer), topic, partition=0)
                )
            except KafkaError:
                statistics.kinds[f"{batch.kind}, refused by the broker"] += 1
                continue
            statistics.kinds[batch.kind] += 1
            taken.append((batch, sent.offset))
        if kill is Kill.SENT:
            kept.kill(kill)
        number = next(self._numbers)
        value, headers = self._good(role, number)
        good = await self._producer.send_and_wait(topic, value, key=b"u", partition=0, headers=headers)
        await wait_until(lambda: self._is_done(role, number), f"the output of the good {role} record")
        if kill is Kill.OUTPUT:
            kept.kill(kill)
        if role in (Role.PREDICT, Role.CONTROL):
            ends = [*(offset for _, offset in taken), good.offset][1:]
            for (batch, first), end in zip(taken, ends, strict=True):
                await self._has_outputs(topic, batch, range(first, end))
        else:
            statistics.outcomes[f"{role}: passed"] += sum(len(batch.records) for batch, _ in taken)
        self._kill_in_call = False
        assert not statistics.ends, f"{statistics.ends}"
        grown = kept.grown_bytes()
        assert grown <= memory_bound_bytes(self._requests), f"{role} took {grown / MIB:.0f} MiB more"

    async def _has_outputs(self, topic: str, batch: AnyBatch, offsets: range) -> None:
        """Each record of a whole batch has an output, and any other batch has one."""

        async def complete() -> bool:
            outputs = self._outputs(topic)
            missing = set(offsets) - outputs.keys()
            if batch.is_whole:
                return not missing
            return len(missing) < len(offsets)

        await wait_until(complete, f"outputs of {batch} at {offsets}")
        outputs = self._outputs(topic)
        self.statistics.outcomes.update(outputs[offset] for offset in offsets if offset in outputs)

    def _outputs(self, topic: str) -> dict[int, str]:
        """What became of each offset of partition 0 of the topic, as far as it was read."""
        found: dict[int, str] = {}
        results, letters = (
            self._others.topic_promotion_results,
            (
                self._requests.topic_dead_letters,
                self._others.topic_dead_letters,
            ),
        )
        for output in (self._requests.topic_responses, results, *letters):
            for record in self._log.of(output):
                headers = dict(record.headers)
                source = headers.get("headrace-source", b"").decode()
                if not source.startswith(f"{topic}/0/"):
                    continue
                first = int(source.rpartition("/")[2])
                last = int(headers.get("headrace-last-offset", str(first)))
                code = headers.get("headrace-error-code", b"").decode()
                outcome = f"dead letter {code}" if output in letters else "answered"
                found |= dict.fromkeys(range(first, last + 1), outcome)
        return found

    def _topic(self, role: Role) -> str:
        return {
            Role.PREDICT: self._requests.topic_requests,
            Role.CONTROL: self._others.topic_promotions,
            Role.MONITOR: self._others.topic_metrics,
            Role.LOG: self._others.topic_responses,
        }[role]

    def _good(self, role: Role, number: int) -> tuple[bytes, list[tuple[str, bytes]]]:
        name = f"good-{number}"
        match role:
            case Role.PREDICT:
                document: Any = DOCUMENTS[role] | {"request_id": name, "input": {"x": number}}
            case Role.CONTROL:
                document = event_document("register", OTHER_MODEL, model=spec(name)) | {"event_id": name}
            case Role.MONITOR:
                document = delta(0, at=datetime.now(UTC), boot_id=name, model_name=MODEL).model_dump(
                    mode="json"
                )
            case Role.LOG:
                return orjson.dumps(response(number, request_id=name)), headers_of(f"requests/0/{number}")
        return orjson.dumps(document), []

    async def _is_done(self, role: Role, number: int) -> bool:
        name = f"good-{number}"
        match role:
            case Role.PREDICT:
                answers = [
                    answer
                    for record in self._log.of(self._requests.topic_responses)
                    if (answer := orjson.loads(record.value))["request_id"] == name
                ]
                assert all(answer.get("predictions") == 2 * number for answer in answers), answers
                return bool(answers)
            case Role.CONTROL:
                results = [
                    orjson.loads(each.value) for each in self._log.of(self._others.topic_promotion_results)
                ]
                mine = [result for result in results if result["event_id"] == name]
                assert all(result["status"] == "applied" for result in mine), mine
                return bool(mine)
            case Role.MONITOR:
                query = "SELECT count(*) FROM metric_marks WHERE boot_id = $1"
            case Role.LOG:
                query = "SELECT count(*) FROM prediction_log WHERE request_id = $1"
        return bool(await self._database.fetchval(query, name))


@asynccontextmanager
async def installation(stack: StackAddresses, start_worker: StartWorker) -> AsyncIterator[Installation]:
    """The installation with its workers, until the block ends."""
    async with AsyncExitStack() as opened:
        dsn = await opened.enter_async_context(own_database(stack))
        make_topics = await opened.enter_async_context(own_topics(stack))
        folder = opened.enter_context(TemporaryDirectory(prefix="headrace-any-record-"))
        requests, others = [
            await make_topics(1, postgres_dsn=dsn, artifact_dir=folder, **LIMITS) for _ in range(2)
        ]
        read = [
            *(requests.topic_responses, requests.topic_dead_letters),
            *(others.topic_promotion_results, others.topic_dead_letters),
        ]
        log = await opened.enter_async_context(topic_log(requests.kafka_bootstrap, *read))
        producer = await opened.enter_async_context(
            AIOKafkaProducer(bootstrap_servers=requests.kafka_bootstrap, max_request_size=1000 * MIB)
        )
        database = await asyncpg.connect(dsn)
        opened.push_async_callback(database.close)
        installed = Installation(requests, others, log, producer, database)
        url = await opened.enter_async_context(http_server(installed.serve))
        schema = {
            "type": "object",
            "properties": {"x": {"type": "integer", "minimum": 0, "maximum": 100_000}},
        }
        model = spec(
            "v1", endpoint=f"{url}/v2/models/m", timeout_ms=30_000, cache_ttl_seconds=0, input_schema=schema
        )
        await apply(dsn, event("register", MODEL, model=model), event("promote", MODEL, version="v1"))
        for role in Role:
            settings = requests if role is Role.PREDICT else others
            installed.kept[role] = Kept(start_worker, settings, role, installed.statistics)
            opened.push_async_callback(installed.kept[role].close)
        await asyncio.gather(*(kept.ready() for kept in installed.kept.values()))
        yield installed
