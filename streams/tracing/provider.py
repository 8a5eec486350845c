"""The tracer of a process, from its settings."""

import asyncio
import re
import ssl
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import metadata
from typing import TYPE_CHECKING
from urllib.parse import unquote

from schemas.errors import SetupError
from streams.config.identity import Identity
from streams.config.settings import Settings
from streams.config.tls import client_context

if TYPE_CHECKING:
    from streams.tracing.spans import Spans

# The longest queue of spans, some 30 MB; when it is full, the processor drops the oldest.
MAX_SPANS = 1024
SPANS_A_CALL = 256
EXPORT_EACH_SECONDS = 1.0
# At the end of the process; spans that are not accepted by then are lost.
FLUSH_SECONDS = 2.0
_TRACES_PATH = "/v1/traces"
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_VALUE = re.compile(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?")


@asynccontextmanager
async def tracing(settings: Settings, identity: Identity) -> "AsyncIterator[Spans | None]":
    """Trace while the block runs. While `otlp_endpoint` is unset, yields None and does not import OpenTelemetry.

    Raises SetupError when the extra `otel` is not installed, or a setting is invalid.
    """
    if settings.otlp_endpoint is None:
        yield None
        return
    headers = read_headers(settings.otlp_headers.get_secret_value())
    tls = (
        client_context("HEADRACE_OTLP_SSL", cafile=settings.otlp_ssl_cafile, certfile=None, keyfile=None)
        if settings.otlp_endpoint.startswith("https:")
        # Without one, httpx makes a context for http too, which takes 60 ms; this one trusts no authority.
        else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    )
    try:
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415  # only while tracing is on
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
        from opentelemetry.sdk.trace.sampling import ALWAYS_ON  # noqa: PLC0415

        from streams.tracing.otlp import OtlpExporter  # noqa: PLC0415
        from streams.tracing.spans import Spans  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise SetupError(
            f"HEADRACE_OTLP_ENDPOINT needs the package {error.name}, which is not installed: pip install 'headrace[otel]'"
        ) from None
    version = metadata.version("headrace")
    exporter = OtlpExporter(
        settings.otlp_endpoint.rstrip("/").removesuffix(_TRACES_PATH) + _TRACES_PATH, headers=headers, tls=tls
    )
    provider = TracerProvider(
        # The senders of requests sample: without a sampled request no span begins.
        sampler=ALWAYS_ON,
        resource=Resource.create(
            {
                "service.name": "headrace",
                "service.version": version,
                "service.instance.id": identity.worker,
            }
        ),
        shutdown_on_exit=False,
    )
    provider.add_span_processor(
        BatchSpanProcessor(
            exporter,
            max_queue_size=MAX_SPANS,
            max_export_batch_size=SPANS_A_CALL,
            schedule_delay_millis=EXPORT_EACH_SECONDS * 1000,
        )
    )
    try:
        yield Spans(
            provider.get_tracer("headrace", version),
            group_id=settings.group_id,
            client_id=identity.client_id("predict"),
        )
    finally:
        # The process must not wait for a receiver that does not answer.
        ending = threading.Thread(target=provider.shutdown, daemon=True)
        ending.start()
        await asyncio.to_thread(ending.join, min(FLUSH_SECONDS, settings.shutdown_seconds / 4))
        exporter.shutdown()


def read_headers(text: str) -> dict[str, str]:
    """PURE. Parse `NAME=VALUE,…` with percent-encoded values; raises SetupError, which never quotes a value."""
    headers: dict[str, str] = {}
    for place, entry in enumerate(text.split(",") if text else (), start=1):
        name, equals, value = (part.strip() for part in entry.partition("="))
        value = unquote(value)
        if not equals or not _TOKEN.fullmatch(name) or not _VALUE.fullmatch(value):
            raise SetupError(
                f"HEADRACE_OTLP_HEADERS, entry {place}: write NAME=VALUE,…, with %2C for a comma in a value"
            )
        headers[name.lower()] = value
    return headers
