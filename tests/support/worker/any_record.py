"""A whole installation that takes any record: its workers, what is sent to them, and what became of each record."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import asyncpg
import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.errors import KafkaError

from schemas.events import JsonObject
from streams.config.settings import Settings
from streams.headrace_client.stopping import stop_consumer
from tests.support.deadline import wait_until
from tests.support.kafka.administration import committed_offsets
from tests.support.kafka.any_batches import AnyBatch
from tests.support.kafka.topic_log import TopicLog, topic_log
from tests.support.metrics.deltas import delta
from tests.support.models.served_model import apply
from tests.support.promotions.events import document as event_document
from tests.support.promotions.events import event, spec
from tests.support.servers.http_server import HttpRequest, http_server, serve_doubler
from tests.support.stack.services import StackAddresses, own_database, own_topics
from tests.support.worker.kept_worker import MIB, Kept, Role, Statistics, group_of
from tests.support.worker.kill_points import KillPoints, Step
from tests.support.worker.memory_cgroup import (
    MemoryCgroup,
    documented_bound_bytes,
    documented_bound_of_others,
    memory_cgroup_or_reason,
)
from tests.support.worker.prediction_rows import headers_of, response
from tests.support.worker.process import StartWorker
from tests.support.worker.record_outcomes import RecordOutcomes
from tests.support.worker.topic_rules import MODEL

LIMITS = {
    "batch_max_bytes": 16 * MIB,
    "fetch_max_bytes": 4 * MIB,
    "slices_in_flight": 2,
    "slices_set_aside": 1,
    "output_buffer_bytes": 4 * MIB,
}
GOOD_SECONDS = 30.0
"""How long the record behind all others may take, with all kills."""
OTHER_MODEL = "other"
UNREADABLE = "dead letter UNREADABLE_BATCH"

DOCUMENTS: dict[Role, JsonObject] = {
    Role.PREDICT: {
        "request_id": "any",
        "model_name": MODEL,
        "user_id": "u",
        "input": {"x": 1},
        "deadline_ms": 60_000,
    },
    Role.CONTROL: event_document("register", OTHER_MODEL, model=spec("v1"), reason="r"),
    Role.MONITOR: delta(at=datetime.now(UTC)).model_dump(mode="json"),
    Role.LOG: response(1),
}
"""What the records of an example are near to."""


class FromOutside(StrEnum):
    """When the test kills the process."""

    SENT = "when the records are in their topic"
    CALL = "in a call to the model server"
    OUTPUT = "when the last record has its output"


Kill = Step | FromOutside


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
        self._outcomes = RecordOutcomes(requests, others, log, database, self.statistics)
        self.kept: dict[Role, Kept] = {}
        self._kill_in_call = False

    async def serve(self, request: HttpRequest, writer: asyncio.StreamWriter) -> bool | None:
        """The model server: it doubles, and kills the worker in its call where an example asks for that."""
        if request.method == "POST" and self._kill_in_call:
            self._kill_in_call = False
            self.kept[Role.PREDICT].kill(FromOutside.CALL)
            return False
        await serve_doubler(request, writer)
        return None

    async def example(self, role: Role, batches: Sequence[AnyBatch], kills: Collection[Kill]) -> None:
        """Send the batches and a good record behind them, and hold all that must become of them."""
        statistics, kept = self.statistics, self.kept[role]
        statistics.examples += 1
        topic = self._topic(role)
        self._kill_in_call = FromOutside.CALL in kills and role is Role.PREDICT
        for kill in kills:
            if isinstance(kill, Step):
                kept.points.arm(kill)
        taken = [sent for batch in batches if (sent := await self._sent(batch, topic)) is not None]
        if FromOutside.SENT in kills:
            kept.kill(FromOutside.SENT)
        rebalance = asyncio.create_task(self._rebalance(role, topic, kills))
        good_offset = await self._good_is_done(role, topic)
        await rebalance
        if FromOutside.OUTPUT in kills:
            kept.kill(FromOutside.OUTPUT)
        await self._until_committed(role, topic, good_offset)
        kept.points.disarm()
        self._kill_in_call = False
        if kills:
            # A process that was killed at last has a successor then, which counts no end for the next records.
            await self._until_committed(role, topic, await self._good_is_done(role, topic))
        ends = [*(first for first, *_ in taken), good_offset][1:]
        for (first, batch, raw), end in zip(taken, ends, strict=True):
            await self._outcomes.hold(role, topic, batch, raw, range(first, end))
        await self._outcomes.hold_skipped(role, kept)
        assert not statistics.ends, f"{statistics.ends}"
        assert not kept.killed_for_memory()
        grown = kept.grown_bytes()
        assert grown <= _bound_bytes(role, self._requests), f"{role} took {grown / MIB:.0f} MiB more"

    async def _sent(self, batch: AnyBatch, topic: str) -> tuple[int, AnyBatch, bytes] | None:
        """The first offset of a batch, and its bytes; None where the broker refuses it."""
        built = batch.build(self._producer)
        raw = bytes(built._buffer)
        try:
            sent = await (await self._producer.send_batch(built, topic, partition=0))
        except KafkaError:
            self.statistics.kinds[f"{batch.kind}, refused by the broker"] += 1
            return None
        self.statistics.kinds[batch.kind] += 1
        return sent.offset, batch, raw

    async def _rebalance(self, role: Role, topic: str, kills: Collection[Kill]) -> None:
        """Join the group and leave it again, where an example kills a process in its hand-over."""
        if not {Step.HAND_OVER, Step.HANDED_OVER} & set(kills):
            return
        settings = self._settings(role)
        # The last one in the order of names gets none of the one partition.
        consumer = AIOKafkaConsumer(
            topic,
            bootstrap_servers=settings.kafka_bootstrap,
            group_id=group_of(settings, role),
            client_id="zz",
            partition_assignment_strategy=[RoundRobinPartitionAssignor],
            enable_auto_commit=False,
            rebalance_timeout_ms=20_000,
        )
        await consumer.start()
        await stop_consumer(consumer)

    async def _good_is_done(self, role: Role, topic: str) -> int:
        """Send a good record, and wait for its output; returns its offset."""
        number = next(self._numbers)
        value, headers = self._good(role, number)
        sent = await self._producer.send_and_wait(topic, value, key=b"u", partition=0, headers=headers)
        await wait_until(
            lambda: self._is_done(role, number), f"the output of the good {role} record", GOOD_SECONDS
        )
        return int(sent.offset)

    async def _until_committed(self, role: Role, topic: str, offset: int) -> None:
        settings = self._settings(role)

        async def is_committed() -> bool:
            committed = await committed_offsets(settings, group_of(settings, role))
            each = committed.get(TopicPartition(topic, 0))
            return each is not None and each.offset > offset

        await wait_until(is_committed, f"the commit of {topic}")

    def _settings(self, role: Role) -> Settings:
        return self._requests if role is Role.PREDICT else self._others

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
async def installation(
    stack: StackAddresses, start_worker: StartWorker, limited: list[str]
) -> AsyncIterator[Installation]:
    """The installation with its workers, until the block ends; why no control group limits them goes to `limited`."""
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
            group = opened.enter_context(memory_cgroup_or_reason())
            if isinstance(group, str):
                limited.append(group)
            points = KillPoints(Path(folder) / "kill" / role)
            settings = requests if role is Role.PREDICT else others
            installed.kept[role] = Kept(
                start_worker,
                settings,
                role,
                statistics=installed.statistics,
                points=points,
                group=group if isinstance(group, MemoryCgroup) else None,
            )
            opened.push_async_callback(installed.kept[role].close)
        await asyncio.gather(
            *(kept.ready(_bound_bytes(role, requests)) for role, kept in installed.kept.items())
        )
        yield installed


def _bound_bytes(role: Role, settings: Settings) -> int:
    if role is Role.PREDICT:
        return documented_bound_bytes(settings, partitions=1)
    return documented_bound_of_others(settings)
