"""What goes out: answers to the request's own partition, and dead letters.

Outputs of a slice are gathered into Kafka batches; `flush` hands what was gathered to the sender,
`delivered` waits until the broker has everything.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from schemas.errors import AnswerError
from schemas.events import JsonObject
from streams.kafka.batch_producer import OutputBatch, Row
from streams.kafka.offset_tracker import Record, Slice
from streams.serving.requests import RequestContext
from streams.serving.route_table import ServedVersion

Headers = list[tuple[str, bytes]]

CARRIED_HEADERS = frozenset({"traceparent", "tracestate", "kafka_correlationId"})
# Longer ones are none of these; a record's headers must not make its answer undeliverable.
MAX_CARRIED_BYTES = 4096
MAX_ERROR_HEADER_BYTES = 1024

_CONTENT_TYPE = ("content-type", b"application/json")


class Output(Protocol):
    """Where batches go: the transport's producer."""

    def join(
        self, rows: Sequence[Row], topic: str, partition: int
    ) -> tuple[int, asyncio.Future[Any] | None]: ...

    async def send_batch(self, batch: OutputBatch, topic: str, partition: int) -> asyncio.Future[Any]: ...


@dataclass(frozen=True, slots=True)
class OutputTopic:
    """A topic that is written to, and the largest batch that it takes (`max.message.bytes`)."""

    name: str
    max_bytes: int


class Outbox:
    """The outputs of one slice."""

    def __init__(
        self,
        handled: Slice,
        output: Output,
        responses: OutputTopic,
        dead_letters: OutputTopic,
        dead_letter_partitions: int,
    ) -> None:
        topic, partition = handled.partition
        self._topic, self._partition = topic, partition
        self._source_prefix = f"{topic}/{partition}/".encode()
        self._answers = _Gathering(output, responses, partition, _without_key)
        self._dead_letters = _Gathering(
            output, dead_letters, partition % dead_letter_partitions, _without_content
        )

    def predictions(
        self,
        version: ServedVersion,
        works: Sequence[RequestContext],
        predictions: Iterable[bytes],
        *,
        now_ms: int,
        latency_ms: float,
        cached: bool,
        stale: bool,
    ) -> None:
        """Answer requests with predictions of one version, each given as JSON; `now_ms` is Unix time.

        The requests are all of that version, or all of others for which it answers.
        """
        common: JsonObject = {
            "model_name": version.model_name,
            "model_version": version.spec.version,
            "latency_ms": latency_ms,
            "cached": cached,
            "revision": works[0].revision,
            "stale": stale,
        }
        if works[0].failure is not None:
            common["fallback"] = True
        # All that is the same is written once; the rest is put in by the parts that differ.
        shared = orjson.dumps(common)[:-1]
        prefix, add, as_json = self._source_prefix, self._answers.add, orjson.dumps
        for work, prediction in zip(works, predictions, strict=True):
            record = work.record
            headers = [
                ("headrace-source", b"%b%d" % (prefix, record.offset)),
                ("headrace-input-digest", work.digest),
                _CONTENT_TYPE,
            ]
            if record.headers:
                headers += _carried(record.headers)
            value = b'%b,"request_id":%b,"user_id":%b,"predictions":%b}' % (
                shared,
                as_json(work.request_id),
                as_json(work.user_id),
                prediction,
            )
            add(now_ms, record.key, value, headers)

    def error(
        self, work: RequestContext, error: AnswerError, *, now_ms: int, latency_ms: float, stale: bool
    ) -> None:
        """Answer with an error, and keep the record as a dead letter where the error says so."""
        problem: JsonObject = {"code": error.code, "message": error.message}
        if error.details:
            problem["details"] = [detail.model_dump() for detail in error.details]
        body = {
            "request_id": work.request_id,
            "model_name": work.model_name,
            "model_version": work.model_version,
            "user_id": work.user_id,
            "latency_ms": latency_ms,
            "cached": False,
            "revision": work.revision,
            "stale": stale,
            "error": problem,
        }
        record = work.record
        headers: Headers = [("headrace-source", self._source(record)), _CONTENT_TYPE]
        if work.digest:
            headers.append(("headrace-input-digest", work.digest))
        headers += _carried(record.headers)
        self._answers.add(now_ms, record.key, orjson.dumps(body), headers)
        if error.dead_letter:
            self.dead_letter(record, error.code, error, now_ms=now_ms, model_version=work.model_version)

    def dead_letter(
        self, record: Record, code: str, error: Exception, *, now_ms: int, model_version: str = ""
    ) -> None:
        """Keep a record's original bytes and headers, with why and where from."""
        message = str(error).encode()[:MAX_ERROR_HEADER_BYTES]
        headers: Headers = [
            *record.headers,
            ("headrace-source", self._source(record)),
            ("headrace-error-code", code.encode()),
            ("headrace-error-message", message),
            ("headrace-attempts", b"1"),
            ("__connect.errors.topic", self._topic.encode()),
            ("__connect.errors.partition", str(self._partition).encode()),
            ("__connect.errors.offset", str(record.offset).encode()),
            ("__connect.errors.exception.class.name", type(error).__name__.encode()),
            ("__connect.errors.exception.message", message),
        ]
        if model_version:
            headers.append(("headrace-model-version", model_version.encode()))
        self._dead_letters.add(now_ms, record.key, record.value, headers)

    async def flush(self) -> None:
        """Hand what was gathered to the sender."""
        await self._answers.flush()
        await self._dead_letters.flush()

    async def delivered(self) -> None:
        """Wait until the broker has all outputs; raises what aiokafka raises when it does not."""
        await self.flush()
        await asyncio.gather(*self._answers.deliveries, *self._dead_letters.deliveries)

    def _source(self, record: Record) -> bytes:
        return b"%b%d" % (self._source_prefix, record.offset)


class _Gathering:
    """Rows for one partition, in batches each as full as it gets.

    A row that the topic would refuse for its size is sent as `reduce` leaves it: the broker's
    refusal would end the process, and the record would come again.
    """

    def __init__(
        self, output: Output, topic: OutputTopic, partition: int, reduce: Callable[[Row], Row]
    ) -> None:
        self._output = output
        self._topic = topic
        self._partition = partition
        self._reduce = reduce
        self._rows: list[Row] = []
        self.deliveries: list[asyncio.Future[Any]] = []

    def add(self, timestamp_ms: int, key: bytes | None, value: bytes | None, headers: Headers) -> None:
        self._rows.append((timestamp_ms, key, value, headers))

    async def flush(self) -> None:
        if not self._rows:
            return
        rows, self._rows = self._rows, []
        joined, delivered = self._output.join(rows, self._topic.name, self._partition)
        if delivered is not None:
            self.deliveries.append(delivered)
        for batch in self._batches(rows[joined:]):
            self.deliveries.append(await self._output.send_batch(batch, self._topic.name, self._partition))

    def _batches(self, rows: Sequence[Row]) -> Iterator[OutputBatch]:
        limit = self._topic.max_bytes
        batch: OutputBatch | None = None
        for row in rows:
            if batch is not None:
                if batch.add(*row):
                    continue
                yield batch
            batch = OutputBatch(limit)
            batch.add(*row)
            # A first row is taken whatever its size.
            if batch.size() > limit:
                batch = OutputBatch(limit)
                batch.add(*self._reduce(row))
        if batch is not None:
            yield batch


def _without_key(row: Row) -> Row:
    """An answer is small enough but for its key, which is the request's."""
    timestamp_ms, _, value, headers = row
    return timestamp_ms, None, value, [*headers, ("headrace-omitted", b"key")]


def _without_content(row: Row) -> Row:
    """A dead letter that can only tell where the record is, which stays in its topic."""
    timestamp_ms, _, _, headers = row
    ours = [
        (name, value)
        for name, value in headers
        if name.startswith(("headrace-", "__connect.errors.")) and len(value) <= MAX_ERROR_HEADER_BYTES
    ]
    return timestamp_ms, None, None, [*ours, ("headrace-omitted", b"key, value, headers")]


def _carried(headers: Sequence[tuple[str, bytes]]) -> Headers:
    return [
        (name, value)
        for name, value in headers
        if name in CARRIED_HEADERS and value is not None and len(value) <= MAX_CARRIED_BYTES
    ]
