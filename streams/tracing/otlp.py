"""Export of spans: posts to an OTLP/HTTP receiver, from the thread of the span processor.

OpenTelemetry's own exporter treats a redirect as success, trusts other authorities than the system's, and logs
each failed attempt. This one posts with httpx, like the other clients of Headrace.
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
# The statuses after which the protocol allows the same spans to be sent again.
RETRIED = frozenset({429, 502, 503, 504})


class OtlpExporter(SpanExporter):
    """Posts to one URL; drops spans that the receiver does not accept within `EXPORT_SECONDS`."""

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
        """Post spans, with retries; called in the processor's thread. Never raises."""
        body = encode_spans(spans).SerializeToString()
        deadline_monotonic_seconds = time.monotonic() + EXPORT_SECONDS
        tries = 0
        while True:
            tries += 1
            reason, may_retry = self._post(body)
            if not reason:
                self._log_change(failing=False)
                return SpanExportResult.SUCCESS
            pause_seconds = backoff_seconds(
                tries,
                first_seconds=FIRST_PAUSE_SECONDS,
                longest_seconds=EXPORT_SECONDS,
                chance=random.uniform(0.5, 1.0),  # noqa: S311  # no secret
            )
            too_late = time.monotonic() + pause_seconds >= deadline_monotonic_seconds
            if not may_retry or too_late or self._closed.wait(pause_seconds):
                if self._closed.is_set():
                    # The error of a connection that `shutdown` closed does not explain anything.
                    reason = "not accepted before the process ended"
                self._log_change(failing=True, reason=reason, dropped=len(spans))
                return SpanExportResult.FAILURE

    def shutdown(self) -> None:
        """Stop retrying and close the client. Idempotent."""
        self._closed.set()
        self._client.close()

    def _post(self, body: bytes) -> tuple[str, bool]:
        """Post once; returns the reason of a failure, "" on success, and whether a retry is allowed."""
        try:
            # The answer's body says nothing, and may be of any size: it is not read.
            with self._client.stream("POST", self._url, content=body) as answer:
                status = answer.status_code
        except httpx.HTTPError as error:
            return str(error) or type(error).__name__, True
        except RuntimeError as error:
            # httpx raises it when the client is closed.
            return str(error), False
        return ("" if status < httpx.codes.MULTIPLE_CHOICES else f"status {status}"), status in RETRIED

    def _log_change(self, *, failing: bool, **more: object) -> None:
        """Log once when exports begin to fail, and once when they succeed again."""
        if failing and not self._failing:
            log.warning("spans are not exported and are dropped", **more)
        elif self._failing and not failing:
            log.info("spans are exported again")
        self._failing = failing
