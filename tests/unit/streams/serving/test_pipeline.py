"""streams/serving/pipeline.py with its ports in memory: the responses, their order, their version.

The real Kafka, Redis and ONNX are in tests/integration; here are the cases that need control over
time and order.
"""

import asyncio
import gzip
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest

from schemas.errors import BackendFailedError
from schemas.events import JsonObject, PredictResponse
from streams.serving.output_buffer import RESPONSE_OVERHEAD_BYTES, OutputBuffer
from tests.support.deadline import DEADLINE_SECONDS, wait_until
from tests.support.models.served_versions import RecordingBackend, served_version
from tests.support.worker.pipeline_harness import GatedBackend, Harness, SlowOutput, request, slice_of

PREDICTION_BYTES = 500


async def test_answers_in_the_contracts_form() -> None:
    """A response validates, goes to its request's partition, and carries source, digest and type."""
    harness = Harness(served_version("m", "v1", RecordingBackend()))
    answers = await harness.answer(request("r"), headers=[("traceparent", b"t"), ("other", b"o")])
    response = PredictResponse.model_validate(answers["r"])
    assert (response.predictions, response.cached, response.model_version) == ([{"x": 1}], False, "v1")
    assert (response.revision, response.stale, response.error) == (4, False, None)
    ((topic, partition, record),) = harness.output.sent
    assert (topic, partition, record.key) == ("responses", 3, b"u")
    headers = dict(record.headers)
    assert headers.pop("headrace-input-digest").isalnum()
    assert headers == {
        "headrace-source": b"requests/3/0",
        "content-type": b"application/json",
        "traceparent": b"t",
    }


async def test_hits_do_not_wait_for_misses() -> None:
    """The cached answer is sent while the other input is still being inferred."""
    backend = GatedBackend()
    harness = Harness(served_version("m", "v1", backend))
    backend.gate.set()
    await harness.answer(request("warm", 1))
    backend.gate.clear()
    harness.output.arrived.clear()
    mixed = asyncio.create_task(harness.pipeline.process(slice_of(request("hit", 1), request("miss", 2))))
    await asyncio.wait_for(harness.output.arrived.wait(), DEADLINE_SECONDS)
    assert harness.output.answers()["hit"]["cached"] is True
    assert "miss" not in harness.output.answers()
    assert not mixed.done()
    backend.gate.set()
    await asyncio.wait_for(mixed, DEADLINE_SECONDS)
    assert harness.output.answers()["miss"]["cached"] is False


async def test_a_version_that_is_never_cached() -> None:
    """With a TTL of 0 the cache is neither read nor written."""
    backend = RecordingBackend()
    harness = Harness(served_version("m", "v1", backend, cache_ttl_seconds=0))
    for request_id in ("a", "b"):
        assert (await harness.answer(request(request_id)))[request_id]["cached"] is False
    assert (len(backend.calls), harness.cache.reads, harness.cache.writes) == (2, [], [])


async def test_each_version_is_called_once_and_cached_by_itself() -> None:
    """Requests of two versions make one call each, and equal inputs are not shared between them."""
    backends = [RecordingBackend(lambda _: "one"), RecordingBackend(lambda _: "two")]
    versions = [served_version("m", f"v{at}", backend) for at, backend in enumerate(backends)]
    users = [f"u{number}" for number in range(40)]
    answers = await Harness(*versions).answer(*[request(user, 1, user) for user in users])
    by_version = {"v0": "one", "v1": "two"}
    assert {answer["model_version"] for answer in answers.values()} == {"v0", "v1"}
    for answer in answers.values():
        assert answer["predictions"] == by_version[answer["model_version"]]
    assert [len(backend.calls) for backend in backends] == [1, 1]


async def test_a_deadline_ends_the_waiting() -> None:
    """A request expires at its deadline; the other request of its call gets the predictions later."""
    backend = GatedBackend()
    harness = Harness(served_version("m", "v1", backend))
    waiting = asyncio.create_task(
        harness.pipeline.process(slice_of(request("late", 1, deadline_ms=50), request("patient", 1)))
    )
    await backend.until_called()
    while "late" not in harness.output.answers():
        harness.output.arrived.clear()
        await asyncio.wait_for(harness.output.arrived.wait(), DEADLINE_SECONDS)
    assert harness.output.answers()["late"]["error"]["code"] == "DEADLINE_EXCEEDED"
    backend.gate.set()
    await asyncio.wait_for(waiting, DEADLINE_SECONDS)
    assert harness.output.answers()["patient"]["predictions"] == [{"x": 1}]
    assert harness.output.dead_letters() == []


async def test_a_bad_input_spoils_no_other() -> None:
    """The backend fails for one input; only its request fails, and is kept as a dead letter."""

    def predict(value: JsonObject) -> Any:
        if value["x"] == "bad":
            raise BackendFailedError("the model does not like it")
        return value["x"]

    harness = Harness(served_version("m", "v1", RecordingBackend(predict)))
    answers = await harness.answer(*[request(str(at), "bad" if at == 3 else at) for at in range(8)])
    assert answers["3"]["error"]["code"] == "BACKEND_ERROR"
    assert [answers[str(at)].get("predictions") for at in range(8)] == [0, 1, 2, None, 4, 5, 6, 7]
    (letter,) = harness.output.dead_letters()
    assert json.loads(letter.value)["request_id"] == "3"
    headers = dict(letter.headers)
    assert headers["headrace-error-code"] == b"BACKEND_ERROR"
    assert headers["__connect.errors.offset"] == b"3"
    assert headers["headrace-model-version"] == b"v1"
    assert all(value != b'"bad"' for items, _ in harness.cache.writes for _, value in items)


async def test_outputs_are_checked_and_never_cached_when_bad() -> None:
    """Predictions that break the schema, or are too big to send, become INVALID_OUTPUT."""
    backend = RecordingBackend(lambda value: "x" * value["x"])
    version = served_version("m", "v1", backend, output_schema={"type": "string", "minLength": 2})
    harness = Harness(version)
    answers = await harness.answer(request("short", 1), request("good", 2), request("huge", 2000))
    assert answers["short"]["error"]["code"] == answers["huge"]["error"]["code"] == "INVALID_OUTPUT"
    assert answers["good"]["predictions"] == "xx"
    assert [value for items, _ in harness.cache.writes for _, value in items] == [b'"xx"']
    assert len(harness.output.dead_letters()) == 2


async def test_an_internal_fault_is_answered_and_kept() -> None:
    """An unexpected exception becomes INTERNAL, only for the requests that it concerns."""

    def predict(_: JsonObject) -> Any:
        raise ZeroDivisionError

    harness = Harness(served_version("m", "v1", RecordingBackend(predict)))
    answers = await harness.answer(request("a"), b"broken")
    assert answers["a"]["error"]["code"] == "INTERNAL"
    assert len(harness.output.dead_letters()) == 2


@pytest.mark.parametrize("value", [None, b"", b"{", b"[]", b'{"request_id": 5}'])
async def test_unreadable_records_become_dead_letters_only(value: bytes | None) -> None:
    """They get no response, their bytes are kept, and the next record is served."""
    harness = Harness(served_version("m", "v1", RecordingBackend()))
    answers = await harness.answer(value, request("next"), headers=[("mine", b"1")])
    assert answers.keys() == {"next"}
    (letter,) = harness.output.dead_letters()
    assert letter.value == value
    assert dict(letter.headers)["mine"] == b"1"
    assert dict(letter.headers)["headrace-error-code"] == b"MALFORMED_RECORD"


async def test_counts_what_it_answers() -> None:
    """The deltas hold every request once, under its version or under none."""
    backend = RecordingBackend()
    harness = Harness(served_version("m", "v1", backend), stale=True)
    await harness.answer(request("a"))
    answers = await harness.answer(
        request("b"),
        request("c", 2),
        b"{",
        request("d") | {"model_name": "unknown"},
        request("e", deadline_ms=0),
    )
    assert all(answer["stale"] for answer in answers.values())
    closed = harness.metrics.close_window(datetime.now(UTC))
    deltas = {(delta.model_name, delta.model_version): delta for delta in closed}
    served, refused, unknown = deltas["m", "v1"], deltas["m", ""], deltas["", ""]
    assert (served.requests, served.ok, served.cache_hits, served.cache_misses) == (3, 3, 1, 2)
    assert served.latency_ms.count == served.end_to_end_ms.count == 3
    # A request that is refused before it is routed counts for its model, if that is known.
    assert (refused.errors, refused.requests) == ({"INVALID_REQUEST": 1}, 1)
    assert (unknown.errors, unknown.requests) == ({"UNKNOWN_MODEL": 1, "MALFORMED_RECORD": 1}, 2)
    assert list(harness.metrics.close_window(datetime.now(UTC))) == []


@pytest.mark.parametrize(
    "timestamp",
    [-1, int(time.time()), int(time.time() - 90_000) * 1000],
    ids=["none", "seconds", "yesterday"],
)
async def test_a_wrong_timestamp_is_told_and_distorts_no_figure(timestamp: int) -> None:
    """In seconds, of another day, or none: deadlines have passed by it, and end-to-end times are not counted."""
    harness = Harness(served_version("m", "v1", RecordingBackend()))
    answers = await harness.answer(request("a"), request("b", deadline_ms=600_000), timestamp=timestamp)
    assert answers["a"]["predictions"] == [{"x": 1}]
    error = answers["b"]["error"]
    assert error["code"] == "DEADLINE_EXCEEDED"
    assert "Kafka timestamp" in error["message"]
    deltas = list(harness.metrics.close_window(datetime.now(UTC)))
    assert sum(delta.requests for delta in deltas) == sum(delta.latency_ms.count for delta in deltas) == 2
    assert sum(delta.end_to_end_ms.count for delta in deltas) == 0


@pytest.mark.parametrize(
    ("frame", "told"),
    [
        (lambda body: b"\x00\x00\x00\x00\x07" + body, b"the schema id 7"),
        (gzip.compress, b"it looks like gzip"),
        (lambda body: json.dumps(body.decode()).encode(), b"encoded twice"),
        (lambda body: b'{"schema": null, "payload": ' + body + b"}", b"wrapped in the field payload"),
    ],
    ids=["registry", "gzip", "twice", "wrapped"],
)
async def test_a_dead_letter_says_what_a_misframed_record_looks_like(
    frame: Callable[[bytes], bytes], told: bytes
) -> None:
    harness = Harness(served_version("m", "v1", RecordingBackend()))
    assert await harness.answer(frame(json.dumps(request("a")).encode())) == {}
    (letter,) = harness.output.dead_letters()
    assert told in dict(letter.headers)["headrace-error-message"]


@pytest.mark.parametrize("blocks", [False, True])
async def test_no_model_is_called_while_predictions_wait_for_kafka(blocks: bool) -> None:
    """Of 40 predictions the buffer takes 4; the calls go on, and end, when Kafka has what was sent.

    A producer that takes no further batch keeps the slice from its results; these are limited too.
    """
    backend, buffer = RecordingBackend(), OutputBuffer(4 * PREDICTION_BYTES)
    output = SlowOutput(blocks=blocks)
    harness = Harness(
        served_version("m", "v1", backend, gate=buffer, max_batch=1, cache_ttl_seconds=0),
        output=output,
        buffer=buffer,
    )
    text = "x" * (PREDICTION_BYTES - RESPONSE_OVERHEAD_BYTES - len('{"x":"00"}'))
    values = [request(str(number), f"{number:02}{text}") for number in range(40)]
    handling = asyncio.create_task(harness.pipeline.process(slice_of(*values)))
    await wait_until(partial(is_full, buffer), "predictions that wait")
    calls = len(backend.calls)
    for _ in range(100):
        await asyncio.sleep(0)
    assert len(backend.calls) <= calls + 2
    # In the buffer, with the slice, and waiting for it; and two calls.
    assert len(backend.calls) <= 3 * 4 + 2
    assert buffer.used_bytes <= 4 * PREDICTION_BYTES
    output.deliver()
    await asyncio.wait_for(handling, DEADLINE_SECONDS)
    assert len(harness.output.answers()) == len(backend.calls) == 40
    assert buffer.used_bytes == 0


async def test_a_slice_that_is_handed_back_keeps_no_room() -> None:
    """It is cancelled while its predictions wait for Kafka."""
    output, buffer = SlowOutput(), OutputBuffer(PREDICTION_BYTES)
    harness = Harness(served_version("m", "v1", RecordingBackend()), output=output, buffer=buffer)
    text = "x" * PREDICTION_BYTES
    first = asyncio.create_task(harness.pipeline.process(slice_of(request("1", text))))
    second = asyncio.create_task(harness.pipeline.process(slice_of(request("2", text + "2"))))
    await wait_until(partial(is_full, buffer), "predictions that wait")
    second.cancel()
    output.deliver()
    await asyncio.wait_for(first, DEADLINE_SECONDS)
    await asyncio.gather(second, return_exceptions=True)
    assert second.cancelled()
    assert (buffer.used_bytes, buffer.is_open) == (0, True)
    assert set(harness.output.answers()) == {"1"}


async def is_full(buffer: OutputBuffer) -> bool:
    return not buffer.is_open
