"""streams/pipeline.py with everything around it in memory: what is answered, when, and by whom.

The real Kafka, Redis and ONNX are in tests/integration; here are the cases that need control over
time and order.
"""

import asyncio
import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from aiokafka.record.memory_records import MemoryRecords

from schemas.errors import BackendFailedError
from schemas.events import JsonObject, PredictResponse
from streams.ledger import Partition, Slice
from streams.metrics import MetricsBook
from streams.pipeline import RESPONSE_ROOM_BYTES, Pipeline, PipelineOptions
from streams.producing import OutputBatch
from streams.responses import OutputTopic
from streams.serving import ServedTables, ServedVersion, ServingTable
from tests.serving import FakeRecord, RecordingBackend, record_of, served_model, served_version

WAIT_SECONDS = 5.0


class MemoryOutput:
    """Keeps what was sent; deliveries succeed at once."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, int, Any]] = []
        self.arrived = asyncio.Event()

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


class MemoryCache:
    def __init__(self) -> None:
        self.held: dict[bytes, bytes] = {}
        self.reads: list[Sequence[bytes]] = []
        self.writes: list[tuple[Sequence[tuple[bytes, bytes]], int]] = []
        self.second_read = asyncio.Event()

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        self.reads.append(keys)
        if len(self.reads) == 2:
            self.second_read.set()
        return [self.held.get(key) for key in keys]

    async def set_many(self, items: Sequence[tuple[bytes, bytes]], ttl_seconds: int) -> None:
        self.writes.append((items, ttl_seconds))
        self.held.update(items)


class GatedBackend(RecordingBackend):
    """Answers when its gate is opened."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.called = asyncio.Event()

    async def infer(self, inputs: Sequence[JsonObject], *, timeout_seconds: float) -> list[Any]:
        self.called.set()
        await self.gate.wait()
        return await super().infer(inputs, timeout_seconds=timeout_seconds)


class Bench:
    """A pipeline and what is around it."""

    def __init__(self, *versions: ServedVersion, stale: bool = False) -> None:
        self.output, self.cache = MemoryOutput(), MemoryCache()
        self.book = MetricsBook("w", "boot", datetime.now(UTC))
        self.tables = ServedTables()
        self.tables.swap(ServingTable(epoch=1, models={"m": served_model("m", 4, *versions)}))
        self.pipeline = Pipeline(
            serving=self.tables,
            is_stale=lambda: stale,
            cache=self.cache,
            output=self.output,
            metrics=self.book,
            options=PipelineOptions(
                responses=OutputTopic("responses", RESPONSE_ROOM_BYTES + 1000),
                dead_letters=OutputTopic("dead", 50_000),
                dead_letter_partitions=2,
                max_record_bytes=1024 * 1024,
            ),
        )

    async def answer(self, *values: JsonObject | bytes | None, **fields: Any) -> dict[str, JsonObject]:
        """Process one slice of these records to its end."""
        await asyncio.wait_for(self.pipeline.process(slice_of(*values, **fields)), WAIT_SECONDS)
        return self.output.answers()


def slice_of(*values: JsonObject | bytes | None, **fields: Any) -> Slice:
    records: list[FakeRecord] = []
    for offset, value in enumerate(values):
        body = json.dumps(value).encode() if isinstance(value, dict) else value
        records.append(record_of(body, offset=offset, **fields))
    return Slice(Partition("requests", 3), records, 1, received_at=time.monotonic())


def request(request_id: str, value: Any = 1, user_id: str = "u", **more: Any) -> JsonObject:
    return {"request_id": request_id, "model_name": "m", "user_id": user_id, "input": {"x": value}, **more}


async def test_answers_in_the_contracts_form() -> None:
    """A response validates, goes to its request's partition, and carries source, digest and type."""
    bench = Bench(served_version("m", "v1", RecordingBackend()))
    answers = await bench.answer(request("r"), headers=[("traceparent", b"t"), ("other", b"o")])
    response = PredictResponse.model_validate(answers["r"])
    assert (response.predictions, response.cached, response.model_version) == ([{"x": 1}], False, "v1")
    assert (response.revision, response.stale, response.error) == (4, False, None)
    ((topic, partition, record),) = bench.output.sent
    assert (topic, partition, record.key) == ("responses", 3, b"u")
    headers = dict(record.headers)
    assert headers.pop("headrace-input-digest").isalnum()
    assert headers == {
        "headrace-source": b"requests/3/0",
        "content-type": b"application/json",
        "traceparent": b"t",
    }


async def test_equal_inputs_of_a_slice_are_inferred_once() -> None:
    """Three requests with two inputs make one backend call of two."""
    backend = RecordingBackend()
    answers = await Bench(served_version("m", "v1", backend)).answer(
        request("a", 1), request("b", 2), request("c", 1)
    )
    assert [len(call) for call in backend.calls] == [2]
    assert answers["a"]["predictions"] == answers["c"]["predictions"] != answers["b"]["predictions"]


async def test_equal_inputs_of_slices_in_flight_are_inferred_once() -> None:
    """A slice that comes while an equal input is being inferred waits for that call."""
    backend = GatedBackend()
    bench = Bench(served_version("m", "v1", backend))
    first = asyncio.create_task(bench.pipeline.process(slice_of(request("a"))))
    await asyncio.wait_for(backend.called.wait(), WAIT_SECONDS)
    second = asyncio.create_task(bench.pipeline.process(slice_of(request("b"))))
    await asyncio.wait_for(bench.cache.second_read.wait(), WAIT_SECONDS)
    backend.gate.set()
    await asyncio.wait_for(asyncio.gather(first, second), WAIT_SECONDS)
    assert [len(call) for call in backend.calls] == [1]
    assert bench.output.answers().keys() == {"a", "b"}


async def test_hits_do_not_wait_for_misses() -> None:
    """The cached answer is sent while the other input is still being inferred."""
    backend = GatedBackend()
    bench = Bench(served_version("m", "v1", backend))
    backend.gate.set()
    await bench.answer(request("warm", 1))
    backend.gate.clear()
    bench.output.arrived.clear()
    mixed = asyncio.create_task(bench.pipeline.process(slice_of(request("hit", 1), request("miss", 2))))
    await asyncio.wait_for(bench.output.arrived.wait(), WAIT_SECONDS)
    assert bench.output.answers()["hit"]["cached"] is True
    assert "miss" not in bench.output.answers()
    assert not mixed.done()
    backend.gate.set()
    await asyncio.wait_for(mixed, WAIT_SECONDS)
    assert bench.output.answers()["miss"]["cached"] is False


async def test_a_version_that_is_never_cached() -> None:
    """With a TTL of 0 the cache is neither read nor written."""
    backend = RecordingBackend()
    bench = Bench(served_version("m", "v1", backend, cache_ttl_seconds=0))
    for request_id in ("a", "b"):
        assert (await bench.answer(request(request_id)))[request_id]["cached"] is False
    assert (len(backend.calls), bench.cache.reads, bench.cache.writes) == (2, [], [])


async def test_each_version_is_called_once_and_cached_by_itself() -> None:
    """Requests of two versions make one call each, and equal inputs are not shared between them."""
    backends = [RecordingBackend(lambda _: "one"), RecordingBackend(lambda _: "two")]
    versions = [served_version("m", f"v{at}", backend) for at, backend in enumerate(backends)]
    users = [f"u{number}" for number in range(40)]
    answers = await Bench(*versions).answer(*[request(user, 1, user) for user in users])
    by_version = {"v0": "one", "v1": "two"}
    assert {answer["model_version"] for answer in answers.values()} == {"v0", "v1"}
    for answer in answers.values():
        assert answer["predictions"] == by_version[answer["model_version"]]
    assert [len(backend.calls) for backend in backends] == [1, 1]


async def test_a_deadline_ends_the_waiting() -> None:
    """A request is told at its deadline; its mate without one gets the predictions later."""
    backend = GatedBackend()
    bench = Bench(served_version("m", "v1", backend))
    waiting = asyncio.create_task(
        bench.pipeline.process(slice_of(request("late", 1, deadline_ms=50), request("patient", 1)))
    )
    await asyncio.wait_for(backend.called.wait(), WAIT_SECONDS)
    while "late" not in bench.output.answers():
        bench.output.arrived.clear()
        await asyncio.wait_for(bench.output.arrived.wait(), WAIT_SECONDS)
    assert bench.output.answers()["late"]["error"]["code"] == "DEADLINE_EXCEEDED"
    backend.gate.set()
    await asyncio.wait_for(waiting, WAIT_SECONDS)
    assert bench.output.answers()["patient"]["predictions"] == [{"x": 1}]
    assert bench.output.dead_letters() == []


async def test_a_bad_input_spoils_no_other() -> None:
    """The backend fails for one input; only its request fails, and is kept as a dead letter."""

    def predict(value: JsonObject) -> Any:
        if value["x"] == "bad":
            raise BackendFailedError("the model does not like it")
        return value["x"]

    bench = Bench(served_version("m", "v1", RecordingBackend(predict)))
    answers = await bench.answer(*[request(str(at), "bad" if at == 3 else at) for at in range(8)])
    assert answers["3"]["error"]["code"] == "BACKEND_ERROR"
    assert [answers[str(at)].get("predictions") for at in range(8)] == [0, 1, 2, None, 4, 5, 6, 7]
    (letter,) = bench.output.dead_letters()
    assert json.loads(letter.value)["request_id"] == "3"
    headers = dict(letter.headers)
    assert headers["headrace-error-code"] == b"BACKEND_ERROR"
    assert headers["__connect.errors.offset"] == b"3"
    assert headers["headrace-model-version"] == b"v1"
    assert all(value != b'"bad"' for items, _ in bench.cache.writes for _, value in items)


async def test_outputs_are_checked_and_never_cached_when_bad() -> None:
    """Predictions that break the schema, or are too big to send, become INVALID_OUTPUT."""
    backend = RecordingBackend(lambda value: "x" * value["x"])
    version = served_version("m", "v1", backend, output_schema={"type": "string", "minLength": 2})
    bench = Bench(version)
    answers = await bench.answer(request("short", 1), request("good", 2), request("huge", 2000))
    assert answers["short"]["error"]["code"] == answers["huge"]["error"]["code"] == "INVALID_OUTPUT"
    assert answers["good"]["predictions"] == "xx"
    assert [value for items, _ in bench.cache.writes for _, value in items] == [b'"xx"']
    assert len(bench.output.dead_letters()) == 2


async def test_a_fault_of_ours_is_answered_and_kept() -> None:
    """An exception nobody foresaw becomes INTERNAL, for the requests it concerns and no others."""

    def predict(_: JsonObject) -> Any:
        raise ZeroDivisionError

    bench = Bench(served_version("m", "v1", RecordingBackend(predict)))
    answers = await bench.answer(request("a"), b"broken")
    assert answers["a"]["error"]["code"] == "INTERNAL"
    assert len(bench.output.dead_letters()) == 2
    assert bench.pipeline._in_flight == {}


@pytest.mark.parametrize("value", [None, b"", b"{", b"[]", b'{"request_id": 5}'])
async def test_unreadable_records_become_dead_letters_only(value: bytes | None) -> None:
    """Nobody is answered, the original bytes are kept, and the next record is served."""
    bench = Bench(served_version("m", "v1", RecordingBackend()))
    answers = await bench.answer(value, request("next"), headers=[("mine", b"1")])
    assert answers.keys() == {"next"}
    (letter,) = bench.output.dead_letters()
    assert letter.value == value
    assert dict(letter.headers)["mine"] == b"1"
    assert dict(letter.headers)["headrace-error-code"] == b"MALFORMED_RECORD"


async def test_counts_what_it_answers() -> None:
    """The deltas add up: every request once, by version or by none."""
    backend = RecordingBackend()
    bench = Bench(served_version("m", "v1", backend), stale=True)
    await bench.answer(request("a"))
    answers = await bench.answer(
        request("b"),
        request("c", 2),
        b"{",
        request("d") | {"model_name": "unknown"},
        request("e", deadline_ms=0),
    )
    assert all(answer["stale"] for answer in answers.values())
    deltas = {delta.model_version: delta for delta in bench.book.close_window(datetime.now(UTC))}
    served, unserved = deltas["v1"], deltas[""]
    assert (served.requests, served.ok, served.cache_hits, served.cache_misses) == (3, 3, 1, 2)
    assert served.latency_ms.count == served.end_to_end_ms.count == 3
    assert unserved.errors == {"UNKNOWN_MODEL": 1, "INVALID_REQUEST": 1, "MALFORMED_RECORD": 1}
    assert (unserved.model_name, unserved.requests) == ("", 3)
    assert list(bench.book.close_window(datetime.now(UTC))) == []


async def test_what_a_topic_would_refuse_is_sent_smaller() -> None:
    """An answer goes without its huge key; a huge dead letter keeps the headers that say where it is."""
    bench = Bench(served_version("m", "v1", RecordingBackend()))
    await bench.answer(request("a"), key=b"k" * 60_000)
    await bench.answer(b"x" * 60_000, headers=[("mine", b"1")])
    ((_, _, answer),) = [sent for sent in bench.output.sent if sent[0] == "responses"]
    assert json.loads(answer.value)["request_id"] == "a"
    assert (answer.key, dict(answer.headers)["headrace-omitted"]) == (None, b"key")
    (letter,) = bench.output.dead_letters()
    headers = dict(letter.headers)
    assert (letter.key, letter.value, headers["headrace-source"]) == (None, None, b"requests/3/0")
    assert headers["headrace-error-code"] == b"MALFORMED_RECORD"
    assert "mine" not in headers
