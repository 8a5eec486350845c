"""A receiver of OTLP/HTTP that keeps the spans it gets."""

import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from tests.support.deadline import Signal

INTERNAL, CLIENT, CONSUMER = 1, 3, 5
ERROR = 2


@dataclass(frozen=True)
class ReceivedSpan:
    """A span as it came; ids are hexadecimal, `links` pairs of trace and span."""

    name: str
    kind: int
    trace_id: str
    span_id: str
    parent_id: str
    links: list[tuple[str, str]]
    attributes: dict[str, Any]
    status: int
    resource: dict[str, Any]
    seconds: float


@dataclass
class OtlpReceiver:
    """Answers with `statuses`, and then takes everything."""

    statuses: list[int] = field(default_factory=list)
    spans: list[ReceivedSpan] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    _news: Signal = field(default_factory=Signal)

    async def until(self, done: Callable[[], object], what: str) -> None:
        """Wait until `done` is true; it is asked whenever something came."""
        await self._news.until(done, lambda: f"{what}; there is {self.spans}")

    def named(self, name: str) -> list[ReceivedSpan]:
        return [span for span in self.spans if span.name == name]

    async def take(self, request: web.Request) -> web.Response:
        """Answer one request."""
        body = await request.read()
        self.bodies.append(body)
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        self.paths.append(request.path)
        status = self.statuses.pop(0) if self.statuses else 200
        if status == 200:
            self.spans += _spans(ExportTraceServiceRequest.FromString(body))
        self._news.notify()
        return web.Response(
            status=status,
            body=ExportTraceServiceResponse().SerializeToString(),
            headers={"location": "/elsewhere"} if 300 <= status < 400 else {},
            content_type="application/x-protobuf",
        )


@asynccontextmanager
async def otlp_receiver(
    receiver: OtlpReceiver | None = None, tls: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[str, OtlpReceiver]]:
    """Its base URL, on a free port, and what it gets."""
    receiver = receiver or OtlpReceiver()
    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_route("*", "/{path:.*}", receiver.take)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
        host, port = runner.addresses[0][:2]
        yield f"{'http' if tls is None else 'https'}://{host}:{port}", receiver
    finally:
        await runner.cleanup()


def _spans(request: Any) -> list[ReceivedSpan]:
    return [
        ReceivedSpan(
            name=span.name,
            kind=span.kind,
            trace_id=span.trace_id.hex(),
            span_id=span.span_id.hex(),
            parent_id=span.parent_span_id.hex(),
            links=[(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
            attributes=_values(span.attributes),
            status=span.status.code,
            resource=_values(of_resource.resource.attributes),
            seconds=(span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
        )
        for of_resource in request.resource_spans
        for of_scope in of_resource.scope_spans
        for span in of_scope.spans
    ]


def _values(attributes: Any) -> dict[str, Any]:
    return {attribute.key: _value(attribute.value) for attribute in attributes}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(each) for each in value.array_value.values]
    return getattr(value, kind)
