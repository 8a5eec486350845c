"""streams/serving/responder.py: a response or a dead letter for each record, and the counts of both."""

import asyncio
import json
import time
from datetime import UTC, datetime
from typing import Any

import pytest

from schemas.errors import AnswerError, BackendFailedError, MalformedRecordError, UnknownModelError
from schemas.events import MetricsDelta
from streams.kafka.offset_tracker import Partition
from streams.serving.output_batching import OutputBatcher, OutputTopic
from streams.serving.output_buffer import OutputBuffer
from streams.serving.request_metrics import MetricsRegistry
from streams.serving.requests import RequestContext
from streams.serving.responder import Responder
from streams.serving.response_encoding import DEAD_LETTER_REDUCTIONS, RESPONSE_REDUCTIONS, ResponseEncoder
from tests.support.models.served_versions import RecordingBackend, record_of, served_version
from tests.support.worker.pipeline_harness import Harness, MemoryOutput, request

OWN = served_version("m", "v2", RecordingBackend())
PRODUCTION = served_version("m", "v1", RecordingBackend())


class Slice:
    """A responder with its output and counters in memory; `failures` are those it reported."""

    def __init__(self, output: MemoryOutput | None = None) -> None:
        self.output = output or MemoryOutput()
        self.buffer = OutputBuffer(64 * 1024 * 1024)
        self.metrics = MetricsRegistry("w", "boot", datetime.now(UTC))
        self.failures: list[AnswerError | MalformedRecordError] = []
        self.responder = Responder(
            ResponseEncoder(Partition("requests", 3), stale=False, attempt=1),
            OutputBatcher(self.output, OutputTopic("responses", 50_000), 3, RESPONSE_REDUCTIONS),
            OutputBatcher(self.output, OutputTopic("dead", 50_000), 1, DEAD_LETTER_REDUCTIONS),
            self.metrics,
            buffer=self.buffer,
            received_at=time.monotonic(),
            on_failure=self.failures.append,
        )

    def deltas(self) -> dict[str, MetricsDelta]:
        return {delta.model_version: delta for delta in self.metrics.close_window(datetime.now(UTC))}


def routed(request_id: str, **fields: Any) -> RequestContext:
    made = RequestContext(record_of(b"{}"))
    made.request_id, made.model_name, made.user_id = request_id, "m", "u"
    made.version, made.revision, made.digest = OWN, 4, b"d"
    for name, value in fields.items():
        setattr(made, name, value)
    return made


async def test_predictions_are_counted_at_the_version_that_made_them() -> None:
    """A fallback counts at production, and as a fallback at the request's own version."""
    sliced, own, other = Slice(), routed("own"), routed("other")
    failed = {other: BackendFailedError("no")}
    await sliced.responder.respond(OWN, [own], [b"1"], cached=True, first_errors={})
    await sliced.responder.respond(PRODUCTION, [other], [b"2"], cached=False, first_errors=failed)
    await sliced.responder.delivered()
    answers = sliced.output.answers()
    assert (answers["own"]["model_version"], "fallback" in answers["own"]) == ("v2", False)
    assert (answers["other"]["model_version"], answers["other"]["fallback"]) == ("v1", True)
    deltas = sliced.deltas()
    assert (deltas["v2"].ok, deltas["v2"].cache_hits, deltas["v2"].fallbacks) == (1, 1, {"BACKEND_ERROR": 1})
    assert (deltas["v1"].ok, deltas["v1"].cache_misses, deltas["v1"].latency_ms.count) == (1, 1, 1)
    assert sliced.failures == []


async def test_an_error_is_answered_counted_and_reported() -> None:
    """With a dead letter where the error asks for one; an unknown model's name gets no counters."""
    sliced = Slice()
    unknown, failed = UnknownModelError("no"), BackendFailedError("no")
    sliced.responder.respond_error(routed("unknown", version=None, revision=0, model_name="made-up"), unknown)
    sliced.responder.respond_error(routed("failed"), failed)
    await sliced.responder.delivered()
    codes = {name: answer["error"]["code"] for name, answer in sliced.output.answers().items()}
    assert codes == {"unknown": "UNKNOWN_MODEL", "failed": "BACKEND_ERROR"}
    assert len(sliced.output.dead_letters()) == 1
    deltas = sliced.deltas()
    assert (deltas[""].model_name, deltas[""].errors) == ("", {"UNKNOWN_MODEL": 1})
    assert deltas["v2"].errors == {"BACKEND_ERROR": 1}
    assert sliced.failures == [unknown, failed]


async def test_a_record_without_a_request_id_is_a_dead_letter_only() -> None:
    """Malformed ones, and those that a fault of ours stopped before they were parsed."""
    sliced = Slice()
    sliced.responder.dead_letter_only(RequestContext(record_of(b"{")), MalformedRecordError("no"))
    sliced.responder.respond_internal(RequestContext(record_of(b"[")))
    sliced.responder.respond_internal(routed("parsed"))
    await sliced.responder.delivered()
    assert sliced.output.answers().keys() == {"parsed"}
    assert [letter.value for letter in sliced.output.dead_letters()] == [b"{", b"[", b"{}"]
    deltas = sliced.deltas()
    assert deltas[""].errors == {"MALFORMED_RECORD": 1, "INTERNAL": 1}
    assert deltas["v2"].errors == {"INTERNAL": 1}


async def test_a_slice_whose_outputs_are_not_delivered_fails() -> None:
    """So it is not acknowledged."""

    class Refusing(MemoryOutput):
        async def send_batch(self, *_: object) -> asyncio.Future[Any]:
            refused: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            refused.set_exception(ConnectionError("gone"))
            return refused

    sliced = Slice(Refusing())
    sliced.responder.respond_error(routed("failed"), BackendFailedError("no"))
    with pytest.raises(ConnectionError, match="gone"):
        await sliced.responder.delivered()


async def test_what_a_topic_would_refuse_is_sent_smaller() -> None:
    """A response goes without its huge key; a huge dead letter keeps the headers that locate its record."""
    harness = Harness(served_version("m", "v1", RecordingBackend()))
    await harness.answer(request("a"), key=b"k" * 60_000)
    await harness.answer(b"x" * 60_000, headers=[("mine", b"1")])
    ((_, _, answer),) = [sent for sent in harness.output.sent if sent[0] == "responses"]
    assert json.loads(answer.value)["request_id"] == "a"
    assert (answer.key, dict(answer.headers)["headrace-omitted"]) == (None, b"key")
    (letter,) = harness.output.dead_letters()
    headers = dict(letter.headers)
    assert (letter.key, letter.value, headers["headrace-source"]) == (None, None, b"requests/3/0")
    assert headers["headrace-error-code"] == b"MALFORMED_RECORD"
    assert "mine" not in headers
