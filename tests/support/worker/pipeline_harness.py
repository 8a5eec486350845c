"""The request path with its ports in memory, for tests that control time and order."""

import asyncio
import itertools
import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from aiokafka.record.memory_records import MemoryRecords

from schemas.errors import BackendUnavailableError
from schemas.events import JsonObject, MetricsDelta
from streams.kafka.batch_producer import OutputBatch
from streams.kafka.offset_tracker import Partition, Slice, SliceLimits
from streams.serving.active_tables import ActiveTables
from streams.serving.output_batching import OutputTopic
from streams.serving.output_buffer import OutputBuffer
from streams.serving.pipeline import Pipeline
from streams.serving.pipeline_options import RESPONSE_ROOM_BYTES, PipelineOptions
from streams.serving.ports import SliceTracer
from streams.serving.request_metrics import MetricsRegistry
from streams.serving.route_table import ServedVersion, ServingTable
from tests.support.deadline import DEADLINE_SECONDS
from tests.support.models.served_versions import (
    FakeRecord,
    RecordingBackend,
    record_of,
    served_model,
    served_version,
)
from workers.cache.redis_cache import MAX_VALUE_BYTES

WHOLE_NUMBERS: JsonObject = {"type": "object", "properties": {"x": {"type": "integer", "minimum": 0}}}
DOWN = BackendUnavailableError("the canary is down")


class MemoryOutput:
    """Keeps sent records; deliveries succeed at once. tests/contract/test_output_port.py holds it to Kafka."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, int, Any]] = []
        self.arrived = asyncio.Event()

    def join(self, *_: object) -> tuple[int, None]:
        return 0, None

    async def send_batch(self, batch: OutputBatch, topic: str, partition: int) -> asyncio.Future[Any]:
        records = MemoryRecords(bytes(batch._build()))
        while records.has_next():
            self.sent += [(topic, partition, record) for record in records.next_batch()]
        self.arrived.set()
        delivered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        delivered.set_result(None)
        return delivered

    def answers(self) -> dict[str, JsonObject]:
        """By request id."""
        documents = [json.loads(record.value) for topic, _, record in self.sent if topic == "responses"]
        return {document["request_id"]: document for document in documents}

    def dead_letters(self) -> list[Any]:
        return [record for topic, _, record in self.sent if topic == "dead"]


class SlowOutput(MemoryOutput):
    """Takes each batch at once, unless it `blocks`, and delivers it when it is told to."""

    def __init__(self, *, blocks: bool = False) -> None:
        super().__init__()
        self.deliveries: list[asyncio.Future[Any]] = []
        self.is_slow = True
        self.blocks = blocks
        self.taken = asyncio.Event()

    async def send_batch(self, batch: OutputBatch, topic: str, partition: int) -> asyncio.Future[Any]:
        delivered = await super().send_batch(batch, topic, partition)
        if self.is_slow and self.blocks:
            await self.taken.wait()
        if self.is_slow:
            delivered = asyncio.get_running_loop().create_future()
            self.deliveries.append(delivered)
        return delivered

    def deliver(self) -> None:
        """Deliver all that was sent, and what is sent from now on at once."""
        self.is_slow = False
        self.taken.set()
        for delivery in self.deliveries:
            delivery.set_result(None)


class MemoryCache:
    """The prediction cache in memory, without expiry. tests/contract/test_cache_port.py holds it to Redis."""

    def __init__(self) -> None:
        self.held: dict[bytes, bytes] = {}
        self.reads: list[Sequence[bytes]] = []
        self.writes: list[tuple[Sequence[tuple[bytes, bytes]], int]] = []
        self._news = asyncio.Event()

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        self.reads.append(keys)
        self._news.set()
        return [self.held.get(key) for key in keys]

    async def until_read(self, times: int) -> None:
        """Wait for that many reads."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while len(self.reads) < times:
                self._news.clear()
                await self._news.wait()

    async def set_many(self, items: Sequence[tuple[bytes, bytes]], ttl_seconds: int) -> None:
        self.writes.append((items, ttl_seconds))
        self.held.update(item for item in items if len(item[1]) <= MAX_VALUE_BYTES)


class GatedBackend(RecordingBackend):
    """A backend whose gate is closed at first."""

    def __init__(self) -> None:
        super().__init__()
        self.gate.clear()

    async def until_called(self) -> None:
        """Wait for the first call since `called` was cleared."""
        await asyncio.wait_for(self.called.wait(), DEADLINE_SECONDS)


class FailingBackend(RecordingBackend):
    """Raises its error for every batch."""

    def __init__(self, error: Exception = DOWN) -> None:
        super().__init__()
        self.error = error

    async def infer(self, inputs: Sequence[JsonObject], *, timeout_seconds: float) -> list[Any]:
        assert timeout_seconds > 0
        self.calls.append(list(inputs))
        raise self.error


class Harness:
    """A pipeline with its ports in memory."""

    def __init__(
        self,
        *versions: ServedVersion,
        stale: bool = False,
        production: ServedVersion | None = None,
        tracer: SliceTracer | None = None,
        output: MemoryOutput | None = None,
        buffer: OutputBuffer | None = None,
    ) -> None:
        self.output, self.cache = output or MemoryOutput(), MemoryCache()
        self.buffer = buffer or OutputBuffer(64 * 1024 * 1024)
        self.metrics = MetricsRegistry("w", "boot", datetime.now(UTC))
        self.model = served_model("m", 4, *versions, production=production)
        self.tables = ActiveTables()
        self.tables.swap(ServingTable(epoch=1, models={"m": self.model}))
        self.pipeline = Pipeline(
            tables=self.tables,
            is_stale=lambda: stale,
            cache=self.cache,
            output=self.output,
            buffer=self.buffer,
            metrics=self.metrics,
            options=PipelineOptions(
                responses=OutputTopic("responses", RESPONSE_ROOM_BYTES + 1000),
                dead_letters=OutputTopic("dead", 50_000),
                max_record_bytes=1024 * 1024,
            ),
            tracer=tracer,
        )

    def user_of(self, version: ServedVersion) -> str:
        """A user whom the route sends to this version."""
        users = map(str, itertools.count())
        return next(user for user in users if self.model.version_for(user) is version)

    async def answer(self, *values: JsonObject | bytes | None, **fields: Any) -> dict[str, JsonObject]:
        """Process one slice of these records to its end."""
        await asyncio.wait_for(self.pipeline.process(slice_of(*values, **fields)), DEADLINE_SECONDS)
        return self.output.answers()


def slice_of(*values: JsonObject | bytes | None, **fields: Any) -> Slice:
    records: list[FakeRecord] = []
    for offset, value in enumerate(values):
        body = json.dumps(value).encode() if isinstance(value, dict) else value
        records.append(record_of(body, offset=offset, **fields))
    return Slice(
        Partition("requests", 3),
        records,
        1,
        received_at=time.monotonic(),
        limits=SliceLimits(2000, 1024 * 1024),
    )


def request(request_id: str, value: Any = 1, user_id: str = "u", **more: Any) -> JsonObject:
    return {"request_id": request_id, "model_name": "m", "user_id": user_id, "input": {"x": value}, **more}


class Canary:
    """v1 in production and the canary v2 with fallback; each has half of the users."""

    def __init__(
        self,
        production: RecordingBackend,
        canary: RecordingBackend,
        of_canary: JsonObject | None = None,
        of_production: JsonObject | None = None,
    ) -> None:
        self.v1 = served_version("m", "v1", production, WHOLE_NUMBERS, **(of_production or {}))
        fields: JsonObject = {"fallback": "production"} | (of_canary or {})
        self.v2 = served_version("m", "v2", canary, {"type": "object"}, **fields)
        self.harness = Harness(self.v1, self.v2, production=self.v1)

    def request(self, request_id: str, value: Any = 1, *, of: ServedVersion, **more: Any) -> JsonObject:
        return request(request_id, value, self.harness.user_of(of), **more)

    def deltas(self) -> dict[str, MetricsDelta]:
        return {delta.model_version: delta for delta in self.harness.metrics.close_window(datetime.now(UTC))}

    def begin(self, *values: JsonObject) -> asyncio.Task[None]:
        return asyncio.create_task(self.harness.pipeline.process(slice_of(*values)))

    async def until_answered(self, request_id: str) -> JsonObject:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while request_id not in self.harness.output.answers():
                self.harness.output.arrived.clear()
                await self.harness.output.arrived.wait()
        return self.harness.output.answers()[request_id]
