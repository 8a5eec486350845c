"""Spans out: posted to a receiver of OTLP/HTTP from a thread of their own.

OpenTelemetry's own exporter takes a redirect for success, trusts other authorities than the system's, and
tells of a receiver that is away at each try; so this one posts by httpx, as everything else here.
"""

import random
import ssl
import threading
import time
from collections.abc import Mapping, Sequence

import httpx
import structlog
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from schemas.backoff import backoff_seconds

log = structlog.get_logger()

EXPORT_SECONDS = 10.0
CALL_SECONDS = 5.0
FIRST_PAUSE_SECONDS = 0.5
# By which the protocol says that the same spans may be sent again.
RETRIED = frozenset({429, 502, 503, 504})


class OtlpExporter(SpanExporter):
    """Posts to one URL; what the receiver does not take within `EXPORT_SECONDS` is dropped."""

    def __init__(self, url: str, *, headers: Mapping[str, str], tls: ssl.SSLContext) -> None:
        self._url = url
        self._client = httpx.Client(
            verify=tls,
            headers={**headers, "content-type": "application/x-protobuf"},
            timeout=CALL_SECONDS,
            follow_redirects=False,
            trust_env=False,
        )
        self._closed = threading.Event()
        self._failing = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Called by the processor's thread; never raises."""
        body = encode_spans(spans).SerializeToString()
        ends_at = time.monotonic() + EXPORT_SECONDS
        tries = 0
        while True:
            tries += 1
            reason, may_retry = self._post(body)
            if not reason:
                self._tell(failing=False)
                return SpanExportResult.SUCCESS
            pause = backoff_seconds(
                tries,
                first_seconds=FIRST_PAUSE_SECONDS,
                longest_seconds=EXPORT_SECONDS,
                chance=random.uniform(0.5, 1.0),  # noqa: S311  # no secret
            )
            if not may_retry or time.monotonic() + pause >= ends_at or self._closed.wait(pause):
                if self._closed.is_set():
                    # What a connection says that is closed while it is used explains nothing.
                    reason = "not taken by the end of the process"
                self._tell(failing=True, reason=reason, dropped=len(spans))
                return SpanExportResult.FAILURE

    def shutdown(self) -> None:
        """Try no more. Idempotent."""
        self._closed.set()
        self._client.close()

    def _post(self, body: bytes) -> tuple[str, bool]:
        """Why the receiver has not taken it, if it has not, and whether it may be asked again."""
        try:
            status = self._client.post(self._url, content=body).status_code
        except httpx.HTTPError as error:
            return str(error) or type(error).__name__, True
        except RuntimeError as error:
            # The client is closed.
            return str(error), False
        return ("" if status < httpx.codes.MULTIPLE_CHOICES else f"status {status}"), status in RETRIED

    def _tell(self, *, failing: bool, **more: object) -> None:
        """Once when it begins to fail, and once when it is well again."""
        if failing and not self._failing:
            log.warning("spans are not exported and are dropped", **more)
        elif self._failing and not failing:
            log.info("spans are exported again")
        self._failing = failing
