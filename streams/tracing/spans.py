"""Spans with the names and attributes of OpenTelemetry's semantic conventions for messaging.

A slice gets a span when at least one of its requests is sampled. The span links to the spans of up to
`MAX_LINKS` such requests; the span of a slice with one request continues that request's trace. A backend call
gets a span when a slice with a span takes part in it: a child of the first such slice, linked to the others.

A span has the status ERROR when Headrace or the model was at fault, which are the errors that keep a dead
letter. Errors of requests are only counted.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from urllib.parse import urlsplit

from opentelemetry.context import Context
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    Tracer,
    TraceState,
    set_span_in_context,
)

from schemas.errors import AnswerError, MalformedRecordError
from schemas.models import Framework, ModelSpec
from streams.kafka.offset_tracker import Slice
from streams.serving.ports import OnFailure
from streams.tracing.contexts import SampledContext, sampled_contexts, traceparent
from workers.backends.model_server import TRACE_HEADERS
from workers.calls.callers import Outcome

MAX_LINKS = 32

# The span of the slice that the running task works for; None without one.
_slice: ContextVar[SpanContext | None] = ContextVar("slice", default=None)
_new_id = RandomIdGenerator()


class Spans:
    """Begins and ends the spans of one process."""

    def __init__(self, tracer: Tracer, *, group_id: str, client_id: str) -> None:
        self._tracer = tracer
        self._common = {
            "messaging.system": "kafka",
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.consumer.group.name": group_id,
            "messaging.client.id": client_id,
        }

    @contextmanager
    def slice(self, handled: Slice) -> Iterator[OnFailure | None]:
        """A span for the block, where a request is sampled; yields the callback for failed records."""
        contexts = sampled_contexts(handled.records, MAX_LINKS)
        if not contexts:
            yield None
            return
        span = self._begin(handled, [_remote(context) for context in contexts])
        failures = _Failures()
        context = span.get_span_context()
        # With OTEL_SDK_DISABLED the SDK makes spans with an invalid context.
        token = _slice.set(context if context.is_valid else None)
        try:
            yield failures.record
        except BaseException as error:
            failures.fault = type(error).__name__
            raise
        finally:
            _slice.reset(token)
            failures.end(span)

    def calls_of(self, model_name: str, spec: ModelSpec) -> "CallSpans":
        """The tracer of the backend calls of one version."""
        return CallSpans(self._tracer, model_name, spec)

    def _begin(self, handled: Slice, requests: Sequence[SpanContext]) -> Span:
        topic, partition = handled.partition
        records = handled.records
        waited_seconds = time.monotonic() - handled.received_at
        return self._tracer.start_span(
            f"process {topic}",
            context=_within(requests[0]) if len(records) == 1 else Context(),
            kind=SpanKind.CONSUMER,
            links=[Link(request) for request in requests],
            # The latency in the responses starts at the same moment.
            start_time=time.time_ns() - int(waited_seconds * 1e9),
            attributes={
                **self._common,
                "messaging.destination.name": topic,
                "messaging.destination.partition.id": str(partition),
                "messaging.batch.message_count": len(records),
                "headrace.offset.first": records[0].offset,
                "headrace.offset.last": records[-1].offset,
            },
        )


class CallSpans:
    """Begins and ends the spans of the backend calls of one version."""

    def __init__(self, tracer: Tracer, model_name: str, spec: ModelSpec) -> None:
        self._tracer = tracer
        self._name = f"infer {model_name}"
        # An ONNX model runs in the worker's process: no server is called.
        self._kind = SpanKind.INTERNAL if spec.framework is Framework.ONNX else SpanKind.CLIENT
        self._common: dict[str, str | int] = {
            "headrace.model.name": model_name,
            "headrace.model.version": spec.version,
            "headrace.model.framework": spec.framework.value,
            **_server_of(spec),
        }

    def current(self) -> SpanContext | None:
        """The span of the slice that the running task works for."""
        return _slice.get()

    @contextmanager
    def call(
        self, callers: Sequence[SpanContext | None], batch_size: int
    ) -> Iterator[Callable[[Sequence[Outcome]], None]]:
        """A span for the block, where a caller has one; yields the callback for the outcomes.

        HTTP calls in the block send the context of the span, or a context that is not sampled.
        """
        slices = {context.span_id: context for context in callers if context is not None}
        if not slices:
            parent = traceparent(_new_id.generate_trace_id(), _new_id.generate_span_id(), 0)
            token = TRACE_HEADERS.set({"traceparent": parent})
            try:
                yield _ignore
            finally:
                TRACE_HEADERS.reset(token)
            return
        first, *others = slices.values()
        span = self._tracer.start_span(
            self._name,
            context=_within(first),
            kind=self._kind,
            links=[Link(other) for other in others[:MAX_LINKS]],
            attributes={**self._common, "headrace.batch.size": batch_size},
        )
        failures = _Failures()
        token = TRACE_HEADERS.set(_headers(span.get_span_context()))
        try:
            yield failures.record_all
        except BaseException as error:
            failures.fault = type(error).__name__
            raise
        finally:
            TRACE_HEADERS.reset(token)
            failures.end(span)


class _Failures:
    """The failures within a span."""

    def __init__(self) -> None:
        self._codes: Counter[str] = Counter()
        self._serious: Counter[str] = Counter()
        self.fault = ""

    def record(self, error: AnswerError | MalformedRecordError) -> None:
        self._codes[error.code] += 1
        if isinstance(error, AnswerError) and error.dead_letter:
            self._serious[error.code] += 1

    def record_all(self, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            if isinstance(outcome, AnswerError):
                self.record(outcome)

    def end(self, span: Span) -> None:
        if self._codes:
            span.set_attribute("headrace.error.count", self._codes.total())
            span.set_attribute("headrace.error.codes", sorted(self._codes))
        if self.fault or self._serious:
            span.set_status(StatusCode.ERROR)
            span.set_attribute("error.type", self.fault or self._serious.most_common(1)[0][0])
        span.end()


def _headers(context: SpanContext) -> Mapping[str, str]:
    headers = {"traceparent": traceparent(context.trace_id, context.span_id, context.trace_flags)}
    if context.trace_state:
        headers["tracestate"] = context.trace_state.to_header()
    return headers


def _ignore(_: Sequence[Outcome]) -> None:
    """There is no span to record the outcomes in."""


def _remote(request: SampledContext) -> SpanContext:
    return SpanContext(
        request.trace_id,
        request.span_id,
        is_remote=True,
        trace_flags=TraceFlags(request.flags),
        trace_state=TraceState.from_header([request.state]) if request.state else None,
    )


def _within(context: SpanContext) -> Context:
    return set_span_in_context(NonRecordingSpan(context), Context())


def _server_of(spec: ModelSpec) -> dict[str, str | int]:
    """Host and port only: the rest of an endpoint may contain secrets."""
    if spec.endpoint is None:
        return {}
    parts = urlsplit(spec.endpoint)
    return {
        "server.address": parts.hostname or "",
        "server.port": parts.port or (443 if parts.scheme == "https" else 80),
    }
