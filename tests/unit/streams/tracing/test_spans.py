"""streams/tracing/spans.py: the spans, their parents and links, their attributes."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from schemas.errors import BackendUnavailableError
from schemas.events import JsonObject
from streams.tracing.spans import MAX_LINKS, Spans
from tests.support.models.served_versions import RecordingBackend, served_version, spec_of
from tests.support.worker.pipeline_harness import GatedBackend, Harness, request, slice_of
from workers.backends.model_server import TRACE_HEADERS

SCHEMA: JsonObject = {"type": "object", "properties": {"x": {"type": "integer"}}}
TRACE = 0x4BF92F3577B34DA6A3CE929D0E0E4736


def traced(span_id: int = 7, flags: int = 1) -> list[tuple[str, bytes]]:
    return [("traceparent", f"00-{TRACE:032x}-{span_id:016x}-{flags:02x}".encode())]


class Recorded:
    """Spans, with a list of those that ended."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.spans = Spans(provider.get_tracer("tests"), group_id="g", client_id="c")

    def ended(self, kind: SpanKind | None = None) -> list[ReadableSpan]:
        return [span for span in self._exporter.get_finished_spans() if kind in (None, span.kind)]

    def slice(self) -> ReadableSpan:
        (span,) = self.ended(SpanKind.CONSUMER)
        return span


@pytest.fixture
def recorded() -> Recorded:
    return Recorded()


def bench(recorded: Recorded, backend: RecordingBackend, **fields: Any) -> Harness:
    """A pipeline with one version, traced; it is at a model server unless the fields say otherwise."""
    remote: dict[str, Any] = {
        "framework": "open-inference",
        "endpoint": "http://models.test:8001/v2/models/m?key=secret",
    }
    remote |= {"artifact_uri": None, "artifact_sha256": None}
    fields = {**remote, "input_schema": SCHEMA, **fields}
    tracer = recorded.spans.calls_of("m", spec_of("v1", **fields))
    return Harness(served_version("m", "v1", backend, tracer=tracer, **fields), tracer=recorded.spans)


async def test_a_slice_of_one_request_continues_its_trace(recorded: Recorded) -> None:
    """From the request to the slice to the call, with the attributes of each."""
    pipeline = bench(recorded, RecordingBackend())
    await pipeline.answer(request("r1", user_id="u-secret"), headers=traced())
    call, handled = recorded.ended()
    assert handled.parent is not None
    assert (handled.parent.trace_id, handled.parent.span_id) == (TRACE, 7)
    assert [(link.context.trace_id, link.context.span_id) for link in handled.links] == [(TRACE, 7)]
    assert (handled.name, handled.kind) == ("process requests", SpanKind.CONSUMER)
    assert handled.attributes == {
        "messaging.system": "kafka",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.consumer.group.name": "g",
        "messaging.client.id": "c",
        "messaging.destination.name": "requests",
        "messaging.destination.partition.id": "3",
        "messaging.batch.message_count": 1,
        "headrace.offset.first": 0,
        "headrace.offset.last": 0,
    }
    assert call.parent == handled.get_span_context()
    assert (call.name, call.kind) == ("infer m", SpanKind.CLIENT)
    assert call.attributes == {
        "headrace.model.name": "m",
        "headrace.model.version": "v1",
        "headrace.model.framework": "open-inference",
        "server.address": "models.test",
        "server.port": 8001,
        "headrace.batch.size": 1,
    }
    assert call.links == ()
    for span in (call, handled):
        assert span.status.status_code is StatusCode.UNSET
        assert span.events == ()
    assert handled.start_time is not None
    assert call.start_time is not None
    assert handled.start_time <= call.start_time


async def test_a_slice_links_to_its_requests(recorded: Recorded) -> None:
    """It has several requests, so no parent; the number of links is bounded, and its calls are its children."""
    pipeline = bench(recorded, RecordingBackend())
    count = MAX_LINKS + 10
    handled = slice_of(*(request(str(number), number) for number in range(count)))
    for number, record in enumerate(handled.records, start=1):
        # Some are not sampled, and some not traced at all.
        record.headers = traced(number, flags=number % 5 > 0) if number % 7 else []  # type: ignore[misc]  # the fake's are its own
    await pipeline.pipeline.process(handled)
    span = recorded.slice()
    sampled = [number for number in range(1, count + 1) if number % 7 and number % 5]
    assert span.parent is None
    assert [link.context.span_id for link in span.links] == sampled[:MAX_LINKS]
    assert span.attributes is not None
    assert span.attributes["messaging.batch.message_count"] == count
    calls = recorded.ended(SpanKind.CLIENT)
    assert all(call.parent == span.get_span_context() for call in calls)
    assert calls


async def test_without_a_sampled_request_there_is_no_span(recorded: Recorded) -> None:
    """The model server gets a context that is not sampled."""
    handed_on: list[Any] = []

    def predict(value: JsonObject) -> JsonObject:
        handed_on.append(TRACE_HEADERS.get())
        return value

    pipeline = bench(recorded, RecordingBackend(predict))
    await pipeline.answer(request("r1"), headers=traced(flags=0))
    await pipeline.answer(request("r2", 2))
    assert recorded.ended() == []
    parents = [headers["traceparent"] for headers in handed_on]
    assert [parent[-3:] for parent in parents] == ["-00", "-00"]
    assert len(set(parents)) == 2


async def test_a_call_sends_its_own_context(recorded: Recorded) -> None:
    """With the state of the request's sender; the next call does not see it."""
    handed_on: list[Any] = []

    def predict(value: JsonObject) -> JsonObject:
        handed_on.append(TRACE_HEADERS.get())
        return value

    pipeline = bench(recorded, RecordingBackend(predict))
    await pipeline.answer(request("r1"), headers=[*traced(), ("tracestate", b"vendor=1")])
    (call,) = recorded.ended(SpanKind.CLIENT)
    context = call.get_span_context()
    assert context is not None
    # Flag 2 says that the trace id is random; only the sender knows that.
    assert handed_on == [
        {"traceparent": f"00-{TRACE:032x}-{context.span_id:016x}-01", "tracestate": "vendor=1"}
    ]
    assert TRACE_HEADERS.get() is None


async def test_slices_share_a_call(recorded: Recorded) -> None:
    """The span is a child of the first slice and linked to the second; a slice without a span has neither."""
    gated = GatedBackend()
    pipeline = bench(recorded, gated, server={"max_calls": 1})
    first = asyncio.create_task(pipeline.answer(request("r1", 1), headers=traced(1)))
    await gated.called.wait()
    others = [
        asyncio.create_task(pipeline.answer(request(f"r{number}", number), headers=headers))
        for number, headers in ((2, traced(2, flags=0)), (3, traced(3)), (4, traced(4)))
    ]
    await pipeline.cache.until_read(4)
    gated.gate.set()
    await asyncio.gather(first, *others)
    assert [len(call) for call in gated.calls] == [1, 3]
    slices = {span.parent.span_id: span for span in recorded.ended(SpanKind.CONSUMER) if span.parent}
    assert sorted(slices) == [1, 3, 4]
    own, shared = recorded.ended(SpanKind.CLIENT)
    assert own.parent == slices[1].get_span_context()
    assert shared.parent == slices[3].get_span_context()
    assert [link.context for link in shared.links] == [slices[4].get_span_context()]


async def test_faults_are_errors_and_bad_requests_are_counted(recorded: Recorded) -> None:
    """The span has the codes of the errors, not their messages."""

    def predict(value: JsonObject) -> JsonObject:
        raise BackendUnavailableError(f"secret {value}")

    good = bench(recorded, RecordingBackend())
    await good.answer(request("r1", "secret"), b"{", request("r2", 5), headers=traced())
    (_, handled) = recorded.ended()
    assert handled.status.status_code is StatusCode.UNSET
    assert handled.attributes is not None
    assert handled.attributes["headrace.error.count"] == 2
    assert handled.attributes["headrace.error.codes"] == ("INVALID_INPUT", "MALFORMED_RECORD")
    assert "error.type" not in handled.attributes

    bad = Recorded()
    await bench(bad, RecordingBackend(predict)).answer(request("r1", 271828), headers=traced())
    for span in bad.ended():
        assert span.status.status_code is StatusCode.ERROR
        assert span.status.description is None
        assert span.attributes is not None
        assert span.attributes["error.type"] == "BACKEND_UNAVAILABLE"
        assert span.attributes["headrace.error.count"] == 1
    assert "secret" not in "".join(span.to_json() for span in (*recorded.ended(), *bad.ended()))
    assert "271828" not in "".join(span.to_json() for span in bad.ended())


async def test_an_internal_fault_ends_its_spans(recorded: Recorded) -> None:
    """With its name as `error.type`; the exception still leaves the block."""

    class BrokenOutput(Exception):  # noqa: N818  # its name is what is shown
        pass

    pipeline = bench(recorded, RecordingBackend())
    with pytest.raises(BrokenOutput), broken(pipeline, BrokenOutput()):
        await pipeline.answer(request("r1"), headers=traced())
    span = recorded.slice()
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes is not None
    assert span.attributes["error.type"] == "BrokenOutput"


async def test_the_sdk_may_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """With OTEL_SDK_DISABLED; the model server then gets no invalid context."""
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    off, handed_on = Recorded(), []

    def predict(value: JsonObject) -> JsonObject:
        handed_on.append(TRACE_HEADERS.get())
        return value

    await bench(off, RecordingBackend(predict)).answer(request("r1", 1), request("r2", 2), headers=traced())
    assert off.ended() == []
    for headers in handed_on:
        assert headers is not None
        assert headers["traceparent"][-3:] == "-00"
        assert int(headers["traceparent"][3:35], 16)


async def test_a_model_in_the_process_is_not_called_anywhere(recorded: Recorded) -> None:
    """Its span has no server."""
    local = {"framework": "onnx", "artifact_uri": "file:///m", "artifact_sha256": "0" * 64, "endpoint": None}
    pipeline = bench(recorded, RecordingBackend(), **local)
    await pipeline.answer(request("r1"), headers=traced())
    (call,) = recorded.ended(SpanKind.INTERNAL)
    assert call.attributes is not None
    assert call.attributes["headrace.model.framework"] == "onnx"
    assert "server.address" not in call.attributes


async def test_a_hit_has_no_call(recorded: Recorded) -> None:
    """The cache answered."""
    pipeline = bench(recorded, RecordingBackend())
    await pipeline.answer(request("r1"), headers=traced(1))
    await pipeline.answer(request("r2"), headers=traced(2))
    assert len(recorded.ended(SpanKind.CONSUMER)) == 2
    assert len(recorded.ended(SpanKind.CLIENT)) == 1


@contextmanager
def broken(pipeline: Harness, error: Exception) -> Iterator[None]:
    """Nothing can be sent while the block runs."""

    async def refuse(*_: object) -> None:
        raise error

    pipeline.output.send_batch = refuse  # type: ignore[assignment,method-assign]  # it fails
    yield
