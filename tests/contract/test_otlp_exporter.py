"""streams/tracing/otlp.py on a real receiver: what is sent again, what is dropped, and who is trusted."""

import asyncio
import ssl
import tracemalloc
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SpanExportResult
from structlog.testing import capture_logs

from streams.config.identity import Identity
from streams.config.settings import Settings
from streams.config.tls import client_context
from streams.tracing import otlp
from streams.tracing import provider as tracing
from streams.tracing.otlp import OtlpExporter
from streams.tracing.spans import MAX_LINKS
from tests.support.deadline import DEADLINE_SECONDS, deadline
from tests.support.servers.http_server import ENDLESS_BYTES, HttpRequest, http_server, write_endless
from tests.support.servers.otlp_receiver import OtlpReceiver, otlp_receiver
from tests.support.stack.certificates import Certificates
from tests.support.worker.pipeline_harness import slice_of

NOBODY = "http://127.0.0.1:9"
PLAIN = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otlp, "FIRST_PAUSE_SECONDS", 0.001)


@pytest.fixture
def span() -> Iterator[ReadableSpan]:
    started = TracerProvider(shutdown_on_exit=False).get_tracer("tests").start_span("s")
    assert isinstance(started, ReadableSpan)
    yield started
    started.end()


async def exported(url: str, *spans: ReadableSpan, tls: ssl.SSLContext = PLAIN) -> SpanExportResult:
    exporter = OtlpExporter(f"{url}/v1/traces", headers={"x-scope": "t"}, tls=tls)
    try:
        return await asyncio.to_thread(exporter.export, spans)
    finally:
        exporter.shutdown()


async def test_spans_are_posted(span: ReadableSpan) -> None:
    """With the headers that were given."""
    async with otlp_receiver() as (url, receiver):
        assert await exported(url, span) is SpanExportResult.SUCCESS
    assert receiver.paths == ["/v1/traces"]
    assert receiver.headers[0]["content-type"] == "application/x-protobuf"
    assert receiver.headers[0]["x-scope"] == "t"
    assert [each.name for each in receiver.spans] == ["s"]


@pytest.mark.parametrize("status", sorted(otlp.RETRIED))
async def test_a_receiver_that_says_later_is_asked_again(span: ReadableSpan, status: int) -> None:
    """With the same spans."""
    async with otlp_receiver(OtlpReceiver([status, status])) as (url, receiver):
        assert await exported(url, span) is SpanExportResult.SUCCESS
    assert len(receiver.bodies) == 3
    assert len(receiver.spans) == 1


@pytest.mark.parametrize("status", [302, 307, 400, 401, 413, 500])
async def test_a_refusal_is_final(span: ReadableSpan, status: int) -> None:
    """A redirect is one too: its headers are for the receiver that the operator named."""
    async with otlp_receiver(OtlpReceiver([status])) as (url, receiver):
        with capture_logs() as logs:
            assert await exported(url, span, span) is SpanExportResult.FAILURE
    assert receiver.paths == ["/v1/traces"]
    assert [(line["reason"], line["dropped"]) for line in logs] == [(f"status {status}", 2)]


async def test_a_receiver_that_is_away_is_told_of_once(
    span: ReadableSpan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And once more when it is back."""
    monkeypatch.setattr(otlp, "EXPORT_SECONDS", 0.01)
    exporter = OtlpExporter(f"{NOBODY}/v1/traces", headers={}, tls=PLAIN)
    with capture_logs() as logs:
        for _ in range(3):
            assert await asyncio.to_thread(exporter.export, [span]) is SpanExportResult.FAILURE
        async with otlp_receiver() as (url, _):
            monkeypatch.setattr(exporter, "_url", url)
            for _ in range(2):
                assert await asyncio.to_thread(exporter.export, [span]) is SpanExportResult.SUCCESS
    exporter.shutdown()
    assert [line["event"] for line in logs] == [
        "spans are not exported and are dropped",
        "spans are exported again",
    ]
    assert "refused" in logs[0]["reason"]


async def test_certificates_are_verified(
    span: ReadableSpan, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the authority of the setting, and by no other."""
    monkeypatch.setattr(otlp, "EXPORT_SECONDS", 0.01)
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    serving.load_cert_chain(certificates.server_certificate, certificates.server_key)

    def trusting(ca: Path) -> ssl.SSLContext:
        return client_context("X", cafile=str(ca), certfile=None, keyfile=None)

    async with otlp_receiver(tls=serving) as (url, receiver):
        assert await exported(url, span, tls=trusting(certificates.ca)) is SpanExportResult.SUCCESS
        with capture_logs() as logs:
            assert await exported(url, span, tls=trusting(certificates.other_ca)) is SpanExportResult.FAILURE
    assert len(receiver.spans) == 1
    assert "certificate verify failed" in logs[0]["reason"]


async def test_what_waits_at_the_end_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """To the path of the protocol, with what the environment says of this process."""
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
    handled = slice_of(b"", headers=[("traceparent", f"00-{1:032x}-{1:016x}-01".encode())])
    async with otlp_receiver() as (url, receiver):
        async with tracing.tracing(Settings(otlp_endpoint=url), Identity("w", "b")) as spans:
            assert spans is not None
            with spans.slice(handled):
                pass
        assert receiver.paths == ["/v1/traces"]
        assert len(receiver.spans) == 1
    assert receiver.spans[0].resource["deployment.environment.name"] == "test"
    assert receiver.spans[0].resource["service.instance.id"] == "w"


async def never_answer(_: HttpRequest, __: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def test_what_is_under_way_at_the_end_is_given_up(
    span: ReadableSpan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not sent again, and the reason that is told is one."""
    monkeypatch.setattr(otlp, "CALL_SECONDS", 0.5)
    arrived = asyncio.Event()

    async def hang(request: HttpRequest, writer: asyncio.StreamWriter) -> None:
        arrived.set()
        await never_answer(request, writer)

    with capture_logs() as logs:
        async with http_server(hang) as url:
            exporter = OtlpExporter(url, headers={}, tls=PLAIN)
            exporting = asyncio.create_task(asyncio.to_thread(exporter.export, [span]))
            await arrived.wait()
            exporter.shutdown()
            assert await exporting is SpanExportResult.FAILURE
    assert [line["reason"] for line in logs] == ["not accepted before the process ended"]


async def test_an_answer_without_end_is_an_answer(span: ReadableSpan) -> None:
    """Its body is not read."""
    written = asyncio.get_running_loop().create_future()

    async def serve(_: HttpRequest, writer: asyncio.StreamWriter) -> bool:
        written.set_result(await write_endless(writer))
        return False

    async with http_server(serve) as url:
        assert await exported(url, span) is SpanExportResult.SUCCESS
        async with deadline("the end of the connection"):
            # What the sockets hold.
            assert await written < ENDLESS_BYTES // 10


async def test_memory_is_bounded_and_the_end_waits_for_no_export(monkeypatch: pytest.MonkeyPatch) -> None:
    """The receiver hangs, and no timeout of the exporter passes during the test."""
    monkeypatch.setattr(otlp, "CALL_SECONDS", 10 * DEADLINE_SECONDS)
    monkeypatch.setattr(otlp, "EXPORT_SECONDS", 10 * DEADLINE_SECONDS)
    handled = slice_of(*[b""] * MAX_LINKS)
    held = []
    async with http_server(never_answer) as url, AsyncExitStack() as stack:
        spans = await stack.enter_async_context(
            tracing.tracing(Settings(otlp_endpoint=url), Identity("w", "b"))
        )
        assert spans is not None
        tracemalloc.start()
        for number in range(3 * tracing.MAX_SPANS):
            for place, record in enumerate(handled.records):
                parent = f"00-{number + 1:032x}-{place + 1:016x}-01".encode()
                record.headers = [("traceparent", parent)]  # type: ignore[misc]  # the fake's are its own
            with spans.slice(handled):
                pass
            if number % tracing.MAX_SPANS == tracing.MAX_SPANS - 1:
                held.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        async with deadline("the end of the tracing while its receiver hangs"):
            await stack.aclose()
    assert held[-1] < 30_000_000, held
    assert held[-1] - held[-2] < 0.1 * held[-1], held
