"""The whole request path, top to bottom, a slice at a time.

    slice → parse → route → check input → cache → infer → check output → respond → count

Whole slices go through each step together: one cache read, one backend call for each version's
misses, one cache write, a few batches to Kafka. Hits are answered without waiting for misses.
Equal inputs, in one slice or in slices in flight, are inferred once. The serving table is
captured once for each slice. `process` returns when the broker has all outputs; the agent then
acknowledges the slice.

Every record ends in an answer, a dead letter, or both. What is not an error of the tree in
`schemas/errors.py` is a fault of ours: where it belongs to one record that record is answered
INTERNAL; elsewhere it leaves `process`, the process ends, and the slice comes again.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import orjson
import structlog

from schemas.errors import (
    AnswerError,
    InternalError,
    InvalidOutputError,
    MalformedRecordError,
)
from schemas.events import JsonObject
from streams.answering import FAULT, Answering
from streams.ledger import Slice
from streams.metrics import MetricsBook
from streams.requests import Work, admit, read
from streams.responses import Outbox, Output, OutputTopic
from streams.serving import ServedVersion, ServingTable
from workers.isolate import infer_each

log = structlog.get_logger()

MAX_PREDICTIONS_BYTES = 900_000
# Ids, names, an error's details, the carried headers.
RESPONSE_ROOM_BYTES = 32 * 1024


class Cache(Protocol):
    """Never raises: what is not there, or not reachable, is a miss."""

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]: ...

    async def set_many(self, items: Sequence[tuple[bytes, bytes]], ttl_seconds: int) -> None: ...


class Serving(Protocol):
    """What is served now; a table that is in use is known to be so until the block ends."""

    def in_use(self) -> AbstractContextManager[ServingTable]: ...


@dataclass(frozen=True, slots=True)
class PipelineOptions:
    """`dead_letter_partitions` is that topic's partition count."""

    responses: OutputTopic
    dead_letters: OutputTopic
    dead_letter_partitions: int
    max_record_bytes: int

    @property
    def max_predictions_bytes(self) -> int:
        """What leaves room in a response for all but its key."""
        return min(self.responses.max_bytes - RESPONSE_ROOM_BYTES, MAX_PREDICTIONS_BYTES)


_Hits = dict[ServedVersion, tuple[list[Work], list[bytes]]]
_Misses = dict[ServedVersion, list[Work]]


class _Flight:
    """One backend call; `landed` is done when every key has predictions as JSON, or an error."""

    __slots__ = ("landed", "results")

    def __init__(self) -> None:
        self.landed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.results: dict[bytes, bytes | AnswerError] = {}


class Pipeline:
    """Answers slices. One for each worker; `process` runs for several slices at once."""

    def __init__(
        self,
        *,
        serving: Serving,
        is_stale: Callable[[], bool],
        cache: Cache,
        output: Output,
        metrics: MetricsBook,
        options: PipelineOptions,
    ) -> None:
        self._serving = serving
        self._is_stale = is_stale
        self._cache = cache
        self._output = output
        self._metrics = metrics
        self._options = options
        self._in_flight: dict[bytes, _Flight] = {}
        self._flying: set[asyncio.Task[None]] = set()

    async def process(self, handled: Slice) -> None:
        """Answer every record of a slice; returns when the broker has all outputs."""
        with self._serving.in_use() as table:
            await self._answer(handled, table)

    async def _answer(self, handled: Slice, table: ServingTable) -> None:
        options = self._options
        outbox = Outbox(
            handled,
            self._output,
            options.responses,
            options.dead_letters,
            options.dead_letter_partitions,
        )
        stale = self._is_stale()
        answering = Answering(handled, outbox, self._metrics, stale=stale)
        admitted = self._admit_all(handled, table, answering, stale=stale)
        hits, misses = await self._look_up(admitted)
        flights = self._take_off(misses)
        for version, (works, predictions) in hits.items():
            answering.predictions(version, works, predictions, cached=True)
        await outbox.flush()
        if flights:
            await asyncio.gather(*(self._land(flight, works, answering) for flight, works in flights.items()))
        await outbox.delivered()

    async def close(self) -> None:
        """Let go of what is still in flight; nobody waits for it any more."""
        for task in self._flying:
            task.cancel()
        await asyncio.gather(*self._flying, return_exceptions=True)

    def _admit_all(
        self, handled: Slice, table: ServingTable, answering: Answering, *, stale: bool
    ) -> dict[ServedVersion, list[Work]]:
        max_bytes = self._options.max_record_bytes
        now_ms = time.time() * 1000
        admitted: dict[ServedVersion, list[Work]] = {}
        for record in handled.records:
            work = Work(record)
            try:
                read(work, table.models, max_bytes)
                version = admit(work, table, now_ms, stale=stale)
            except AnswerError as error:
                answering.error(work, error)
            except MalformedRecordError as error:
                answering.malformed(work, error)
            except Exception:  # a fault that belongs to one record must not stop its partition
                log.exception("internal fault", partition=handled.partition, offset=record.offset)
                answering.internal(work)
            else:
                if version in admitted:
                    admitted[version].append(work)
                else:
                    admitted[version] = [work]
        return admitted

    async def _look_up(self, admitted: Mapping[ServedVersion, list[Work]]) -> tuple[_Hits, _Misses]:
        """Split the requests of each version into those that the cache answers and the others."""
        hits: _Hits = {}
        misses: _Misses = {}
        cacheable = [version for version in admitted if version.spec.cache_ttl_seconds]
        found: Iterator[bytes | None] = iter(())
        if cacheable:
            keys = [work.cache_key for version in cacheable for work in admitted[version]]
            found = iter(await self._cache.get_many(keys))
        for version, works in admitted.items():
            if not version.spec.cache_ttl_seconds:
                misses[version] = works
                continue
            values = list(islice(found, len(works)))
            if None in values:
                misses[version] = [work for work, value in zip(works, values, strict=True) if value is None]
            answered = [work for work, value in zip(works, values, strict=True) if value is not None]
            if answered:
                hits[version] = answered, [value for value in values if value is not None]
        return hits, misses

    def _take_off(self, misses: _Misses) -> dict[_Flight, list[Work]]:
        """Join the calls that are already under way, and start one call for each version's others."""
        waiting: dict[_Flight, list[Work]] = {}
        for version, works in misses.items():
            mine = _Flight()
            keys: list[bytes] = []
            inputs: list[JsonObject] = []
            for work in works:
                key = work.cache_key
                flight = self._in_flight.get(key)
                if flight is None:
                    flight = self._in_flight[key] = mine
                    keys.append(key)
                    inputs.append(work.input)
                if flight in waiting:
                    waiting[flight].append(work)
                else:
                    waiting[flight] = [work]
            if keys:
                task = asyncio.create_task(self._infer(version, works[0].revision, mine, keys, inputs))
                self._flying.add(task)
                task.add_done_callback(self._flying.discard)
        return waiting

    async def _infer(
        self,
        version: ServedVersion,
        revision: int,
        flight: _Flight,
        keys: list[bytes],
        inputs: list[JsonObject],
    ) -> None:
        fresh: list[tuple[bytes, bytes]] = []
        started = time.perf_counter()
        try:
            outcomes = await infer_each(
                version.backend, inputs, timeout_seconds=version.spec.timeout_ms / 1000
            )
            tally = self._metrics.of(version.model_name, version.spec.version, revision)
            tally.backend_ms.add((time.perf_counter() - started) * 1000)
            tally.batch_size.add(len(inputs))
            for key, outcome in zip(keys, outcomes, strict=True):
                result = self._checked(version, outcome)
                flight.results[key] = result
                if type(result) is bytes:
                    fresh.append((key, result))
        except Exception:  # the callers wait for an answer, whatever happens here
            log.exception("internal fault", model_name=version.model_name, version=version.spec.version)
        finally:
            if len(flight.results) < len(keys):
                fault = InternalError(FAULT)
                flight.results = dict.fromkeys(keys, fault) | flight.results
            flight.landed.set_result(None)
            # Until the cache has them, equal inputs find them here.
            if fresh and version.spec.cache_ttl_seconds:
                await self._cache.set_many(fresh, version.spec.cache_ttl_seconds)
            for key in keys:
                del self._in_flight[key]

    def _checked(self, version: ServedVersion, outcome: Any) -> bytes | AnswerError:
        if isinstance(outcome, AnswerError):
            return outcome
        if not version.output_is_valid(outcome):
            return version.refuse_output(outcome)
        predictions = orjson.dumps(outcome)
        limit = self._options.max_predictions_bytes
        if len(predictions) > limit:
            return InvalidOutputError(f"predictions have {len(predictions)} bytes; at most {limit} are sent")
        return predictions

    async def _land(self, flight: _Flight, works: list[Work], answering: Answering) -> None:
        """Answer when the call is done, or each request at its deadline."""
        while not flight.landed.done():
            deadlines = [work.deadline_at_ms for work in works if work.deadline_at_ms is not None]
            timeout = max(0.0, min(deadlines) / 1000 - time.time()) if deadlines else None
            await asyncio.wait([flight.landed], timeout=timeout)
            if not flight.landed.done():
                works = answering.expire(works)
                await answering.outbox.flush()
                if not works:
                    return
        answering.results(answering.expire(works), flight.results)
        await answering.outbox.flush()
