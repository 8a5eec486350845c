"""Answering and counting, for what is ready at one moment."""

import time
from collections import Counter
from collections.abc import Callable, Mapping

from schemas.errors import (
    AnswerError,
    BackendFailedError,
    BackendUnavailableError,
    DeadlineExceededError,
    InternalError,
    InvalidOutputError,
    MalformedRecordError,
)
from streams.kafka.offset_tracker import Slice
from streams.serving.request_metrics import MetricsRegistry
from streams.serving.requests import DEADLINE_PASSED, RequestContext, is_overdue
from streams.serving.response_encoding import Outbox
from streams.serving.route_table import ServedVersion

# What speaks against a version or its server, and not against the request.
FALL_BACK_ON = BackendUnavailableError, BackendFailedError, InvalidOutputError

FAULT = "a fault inside Headrace; see its log"

NoteFailure = Callable[[AnswerError | MalformedRecordError], None]
"""Told of each record that gets no predictions."""


class Answering:
    """The answers of one slice; all that is ready at one moment shares that moment's latency."""

    def __init__(
        self,
        handled: Slice,
        outbox: Outbox,
        book: MetricsRegistry,
        *,
        stale: bool,
        note_failure: NoteFailure | None = None,
    ) -> None:
        self.outbox = outbox
        self._note_failure = note_failure
        self._received_at = handled.received_at
        self._book = book
        self._stale = stale

    def predictions(
        self, version: ServedVersion, works: list[RequestContext], predictions: list[bytes], *, cached: bool
    ) -> None:
        latency_ms, now_ms = self._latency_ms(), _unix_ms()
        self.outbox.predictions(
            version,
            works,
            predictions,
            now_ms=now_ms,
            latency_ms=latency_ms,
            cached=cached,
            stale=self._stale,
        )
        count = len(works)
        tally = self._book.counters_for(version.model_name, version.spec.version, works[0].revision)
        tally.ok += count
        if cached:
            tally.cache_hits += count
        else:
            tally.cache_misses += count
        tally.latency_ms.add(latency_ms, count)
        for work in works:
            if work.failure is not None:
                self._fell_back(work, work.failure)
        for timestamp, times in Counter([work.record.timestamp for work in works]).items():
            tally.end_to_end_ms.add(now_ms - timestamp, times)

    def results(
        self,
        version: ServedVersion,
        works: list[RequestContext],
        results: Mapping[bytes, bytes | AnswerError],
        *,
        may_fall_back: bool,
    ) -> list[RequestContext]:
        """Answer the requests of one flight, and return those that production is to answer."""
        good: list[RequestContext] = []
        predictions: list[bytes] = []
        left: list[RequestContext] = []
        for work in works:
            result = results[work.cache_key]
            if not isinstance(result, AnswerError):
                good.append(work)
                predictions.append(result)
            elif work.failure is not None:
                # Production failed too: what the user's own version said is the answer.
                self.error(work, work.failure)
            elif may_fall_back and isinstance(result, FALL_BACK_ON):
                work.failure = result
                left.append(work)
            else:
                self.error(work, result)
        if good:
            self.predictions(version, good, predictions, cached=False)
        return left

    def expire(self, works: list[RequestContext]) -> list[RequestContext]:
        """Answer those whose deadline has passed; returns the others."""
        now_ms = time.time() * 1000
        living = [work for work in works if not is_overdue(work, now_ms)]
        if len(living) < len(works):
            for work in works:
                if is_overdue(work, now_ms):
                    self.error(work, DeadlineExceededError(DEADLINE_PASSED))
        return living

    def error(self, work: RequestContext, error: AnswerError) -> None:
        latency_ms = self._latency_ms()
        now_ms = _unix_ms()
        self.outbox.error(work, error, now_ms=now_ms, latency_ms=latency_ms, stale=self._stale)
        # A revision means that the model is known; names that anybody can make up are not counted by.
        tally = self._book.counters_for(
            work.model_name if work.revision else "", work.model_version, work.revision
        )
        tally.failed(error.code)
        tally.latency_ms.add(latency_ms)
        tally.end_to_end_ms.add(now_ms - work.record.timestamp)
        if self._note_failure is not None:
            self._note_failure(error)

    def internal(self, work: RequestContext) -> None:
        error = InternalError(FAULT)
        if work.request_id:
            self.error(work, error)
        else:
            self._keep(work, error)

    def malformed(self, work: RequestContext, error: MalformedRecordError) -> None:
        self._keep(work, error)

    def _fell_back(self, work: RequestContext, failure: AnswerError) -> None:
        own = self._book.counters_for(work.model_name, work.model_version, work.revision)
        own.fell_back(failure.code)

    def _keep(self, work: RequestContext, error: AnswerError | MalformedRecordError) -> None:
        """Nobody can be answered: the record is kept, and counted under no model."""
        self.outbox.dead_letter(work.record, error.code, error, now_ms=_unix_ms())
        self._book.counters_for("", "", 0).failed(error.code)
        if self._note_failure is not None:
            self._note_failure(error)

    def _latency_ms(self) -> float:
        return round((time.monotonic() - self._received_at) * 1000, 3)


def _unix_ms() -> int:
    return int(time.time() * 1000)
