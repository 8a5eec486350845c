"""Responding to the requests of one slice: encode the rows, gather them for the output, count them."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from schemas.errors import AnswerError, InternalError, MalformedRecordError
from schemas.record_time import measurable_ms
from streams.serving.output_batching import OutputBatcher
from streams.serving.output_buffer import OutputBuffer, pieces
from streams.serving.ports import OnFailure
from streams.serving.request_metrics import MetricsRegistry
from streams.serving.requests import INTERNAL_FAULT, RequestContext
from streams.serving.response_encoding import ResponseEncoder
from streams.serving.route_table import ServedVersion


class Responder:
    """Responds to the requests of one slice; responses of one call share one latency.

    `received_at` is when the slice arrived, in monotonic seconds.
    """

    def __init__(
        self,
        encoder: ResponseEncoder,
        responses: OutputBatcher,
        dead_letters: OutputBatcher,
        metrics: MetricsRegistry,
        *,
        buffer: OutputBuffer,
        received_at: float,
        on_failure: OnFailure | None = None,
    ) -> None:
        self._encoder = encoder
        self._responses = responses
        self._dead_letters = dead_letters
        self._metrics = metrics
        self._buffer = buffer
        # Of the predictions that entered the buffer and are not flushed.
        self._gathered_bytes = 0
        self._received_at = received_at
        self._on_failure = on_failure
        self._deliveries: list[asyncio.Future[Any]] = []

    async def respond(
        self,
        version: ServedVersion,
        requests: Sequence[RequestContext],
        predictions: Sequence[bytes],
        *,
        cached: bool,
        first_errors: Mapping[RequestContext, AnswerError],
    ) -> None:
        """Respond with predictions of one version, and count them; waits while the broker takes less than comes.

        `first_errors` has the error of each request's own version where this version answers as the fallback,
        and is empty where it does not.
        """
        for start, stop, size_bytes in pieces(predictions):
            if not self._buffer.enters_at_once(size_bytes):
                # Only what is flushed makes room.
                await self.flush()
                await self._buffer.enter(size_bytes)
            self._gathered_bytes += size_bytes
            self._respond(
                version,
                requests[start:stop],
                predictions[start:stop],
                cached=cached,
                first_errors=first_errors,
            )

    def _respond(
        self,
        version: ServedVersion,
        requests: Sequence[RequestContext],
        predictions: Sequence[bytes],
        *,
        cached: bool,
        first_errors: Mapping[RequestContext, AnswerError],
    ) -> None:
        latency_ms, now_unix_ms = self._latency_ms(), _now_unix_ms()
        self._responses.add(
            self._encoder.predictions(
                version,
                requests,
                predictions,
                now_unix_ms=now_unix_ms,
                latency_ms=latency_ms,
                cached=cached,
                fallback=bool(first_errors),
            )
        )
        count = len(requests)
        counters = self._metrics.counters_for(version.model_name, version.spec.version)
        counters.ok += count
        if cached:
            counters.cache_hits += count
        else:
            counters.cache_misses += count
        counters.latency_ms.add(latency_ms, count)
        earliest_ms, latest_ms = measurable_ms(now_unix_ms)
        for timestamp, times in Counter([request.record.timestamp for request in requests]).items():
            if earliest_ms <= timestamp <= latest_ms:
                counters.end_to_end_ms.add(now_unix_ms - timestamp, times)
        if first_errors:
            for request in requests:
                self._count_fallback(request, first_errors[request])

    def respond_error(self, request: RequestContext, error: AnswerError) -> None:
        """Respond with an error, keep the record as a dead letter where the error says so, and count it."""
        latency_ms, now_unix_ms = self._latency_ms(), _now_unix_ms()
        self._responses.add(
            [self._encoder.error(request, error, now_unix_ms=now_unix_ms, latency_ms=latency_ms)]
        )
        if error.dead_letter:
            self._dead_letters.add([self._encoder.dead_letter(request, error, now_unix_ms=now_unix_ms)])
        # Only a known model has a revision: a name that a sender made up gets no counters of its own.
        model_name = request.model_name if request.revision else ""
        counters = self._metrics.counters_for(model_name, request.model_version)
        counters.failed(error.code, of_input=error.of_input)
        counters.latency_ms.add(latency_ms)
        earliest_ms, latest_ms = measurable_ms(now_unix_ms)
        if earliest_ms <= request.record.timestamp <= latest_ms:
            counters.end_to_end_ms.add(now_unix_ms - request.record.timestamp)
        if self._on_failure is not None:
            self._on_failure(error)

    def respond_internal(self, request: RequestContext) -> None:
        """Respond with INTERNAL; a record that was not parsed as far as its request id becomes a dead letter only."""
        error = InternalError(INTERNAL_FAULT)
        if request.request_id:
            self.respond_error(request, error)
        else:
            self.dead_letter_only(request, error)

    def dead_letter_only(self, request: RequestContext, error: AnswerError | MalformedRecordError) -> None:
        """Keep a record without a usable request id as a dead letter, and count it under no model."""
        self._dead_letters.add([self._encoder.dead_letter(request, error, now_unix_ms=_now_unix_ms())])
        self._metrics.counters_for("", "").failed(error.code)
        if self._on_failure is not None:
            self._on_failure(error)

    async def flush(self) -> None:
        """Hand the gathered responses and dead letters to the sender."""
        if self._responses.has_rows:
            size_bytes, self._gathered_bytes = self._gathered_bytes, 0
            delivery = None
            try:
                delivery = await self._responses.flush()
            finally:
                if size_bytes and delivery is None:
                    self._buffer.leave(size_bytes)
            if size_bytes and delivery is not None:
                delivery.add_done_callback(lambda _: self._buffer.leave(size_bytes))
        if self._dead_letters.has_rows:
            await self._dead_letters.flush()

    def close(self) -> None:
        """What was gathered and not flushed is sent no more."""
        self._buffer.leave(self._gathered_bytes)
        self._gathered_bytes = 0

    def when_delivered(self, call: Callable[[], None]) -> None:
        """Call when the broker has everything that was flushed since the last time.

        Raises what aiokafka raised for an earlier time, when that failed.
        """
        self._deliveries = [delivery for delivery in self._deliveries if not _succeeded(delivery)]
        flushed = self._take_deliveries()
        if not flushed:
            call()
            return
        delivery = asyncio.gather(*flushed)
        self._deliveries.append(delivery)
        delivery.add_done_callback(
            lambda ended: None if ended.cancelled() or ended.exception() is not None else call()
        )

    async def delivered(self) -> None:
        """Flush, and wait until the broker has everything; raises what aiokafka raises when it fails."""
        await self.flush()
        await asyncio.gather(*self._deliveries, *self._take_deliveries())

    async def sent_is_delivered(self) -> None:
        """Wait until the broker has all that `when_delivered` was called for; raises what aiokafka raises."""
        await asyncio.gather(*self._deliveries)

    def _take_deliveries(self) -> list[asyncio.Future[Any]]:
        return self._responses.take_deliveries() + self._dead_letters.take_deliveries()

    def _count_fallback(self, request: RequestContext, first_error: AnswerError) -> None:
        own = self._metrics.counters_for(request.model_name, request.model_version)
        own.fell_back(first_error.code, of_input=first_error.of_input)

    def _latency_ms(self) -> float:
        return round((time.monotonic() - self._received_at) * 1000, 3)


def _succeeded(delivery: asyncio.Future[Any]) -> bool:
    """Whether a delivery is done; raises its error when it failed."""
    if delivery.done():
        delivery.result()
    return delivery.done()


def _now_unix_ms() -> int:
    return int(time.time() * 1000)
