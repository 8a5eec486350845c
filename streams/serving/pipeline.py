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
import math
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
from streams.kafka.offset_tracker import Slice
from streams.serving.request_metrics import MetricsRegistry
from streams.serving.requests import RequestContext, parse, route_and_validate
from streams.serving.responder import FAULT, Answering, NoteFailure
from streams.serving.response_encoding import Outbox, Output, OutputTopic
from streams.serving.route_table import ServedVersion, ServingTable

log = structlog.get_logger()

MAX_PREDICTIONS_BYTES = 900_000
# Inputs of one version that are answered together: a whole slice.
MAX_FLIGHT = 2048
# Ids, names, an error's details, the carried headers.
RESPONSE_ROOM_BYTES = 32 * 1024


class Cache(Protocol):
    """Never raises: what is not there, or not reachable, is a miss."""

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]: ...

    async def set_many(self, items: Sequence[tuple[bytes, bytes]], ttl_seconds: int) -> None: ...


class Serving(Protocol):
    """What is served now; a table that is in use is known to be so until the block ends."""

    def in_use(self) -> AbstractContextManager[ServingTable]: ...


class SliceTracer(Protocol):
    """Told of each slice, and by what it gives for it of the slice's failures, where requests are traced."""

    def slice(self, handled: Slice) -> AbstractContextManager[NoteFailure | None]: ...


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


_Hits = dict[ServedVersion, tuple[list[RequestContext], list[bytes]]]
_Misses = dict[ServedVersion, list[RequestContext]]


class _Flight:
    """Inputs of one version that are inferred together, each for all requests that hold it.

    `landed` is done when every key has predictions as JSON, or an error. `deadline_unix_seconds` is
    the deadline of the request that has the most time.
    """

    __slots__ = ("boarding", "deadline_unix_seconds", "inputs", "keys", "landed", "results", "version")

    def __init__(self, version: ServedVersion) -> None:
        self.version = version
        self.keys: list[bytes] = []
        self.inputs: list[JsonObject] = []
        self.deadline_unix_seconds = 0.0
        self.boarding = True
        self.landed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.results: dict[bytes, bytes | AnswerError] = {}

    def takes(self, work: RequestContext) -> bool:
        """Whether it lands in time for a request, as far as that can be promised."""
        deadline = math.inf if work.deadline_unix_ms is None else work.deadline_unix_ms / 1000
        if self.boarding:
            self.deadline_unix_seconds = max(self.deadline_unix_seconds, deadline)
        return deadline <= self.deadline_unix_seconds


class Pipeline:
    """Answers slices. One for each worker; `process` runs for several slices at once."""

    def __init__(
        self,
        *,
        serving: Serving,
        is_stale: Callable[[], bool],
        cache: Cache,
        output: Output,
        metrics: MetricsRegistry,
        options: PipelineOptions,
        tracer: SliceTracer | None = None,
    ) -> None:
        self._serving = serving
        self._is_stale = is_stale
        self._cache = cache
        self._output = output
        self._metrics = metrics
        self._options = options
        self._tracer = tracer
        self._in_flight: dict[bytes, _Flight] = {}
        self._flying: set[asyncio.Task[None]] = set()
        self._flights_landed = 0

    @property
    def flights_landed(self) -> int:
        """How many calls have ended: progress, also while no slice is done."""
        return self._flights_landed

    async def process(self, handled: Slice) -> None:
        """Answer every record of a slice; returns when the broker has all outputs."""
        with self._serving.in_use() as table:
            if self._tracer is None:
                await self._answer(handled, table)
            else:
                with self._tracer.slice(handled) as note_failure:
                    await self._answer(handled, table, note_failure)

    async def _answer(
        self, handled: Slice, table: ServingTable, note_failure: NoteFailure | None = None
    ) -> None:
        options = self._options
        outbox = Outbox(
            handled,
            self._output,
            options.responses,
            options.dead_letters,
            options.dead_letter_partitions,
        )
        stale = self._is_stale()
        answering = Answering(handled, outbox, self._metrics, stale=stale, note_failure=note_failure)
        admitted = self._admit_all(handled, table, answering, stale=stale)
        await self._serve(admitted, table, answering)
        await outbox.delivered()

    async def close(self) -> None:
        """Let go of what is still in flight; nobody waits for it any more."""
        for task in self._flying:
            task.cancel()
        await asyncio.gather(*self._flying, return_exceptions=True)

    async def _serve(
        self,
        admitted: Mapping[ServedVersion, list[RequestContext]],
        table: ServingTable,
        answering: Answering,
    ) -> None:
        """Answer admitted requests, those of each version by it."""
        hits, misses = await self._look_up(admitted)
        flights = self._take_off(misses)
        for version, (works, predictions) in hits.items():
            answering.predictions(version, works, predictions, cached=True)
        await answering.outbox.flush()
        if flights:
            await asyncio.gather(
                *(self._land(flight, works, table, answering) for flight, works in flights.items())
            )

    def _admit_all(
        self, handled: Slice, table: ServingTable, answering: Answering, *, stale: bool
    ) -> dict[ServedVersion, list[RequestContext]]:
        max_bytes = self._options.max_record_bytes
        now_ms = time.time() * 1000
        admitted: dict[ServedVersion, list[RequestContext]] = {}
        for record in handled.records:
            work = RequestContext(record)
            try:
                parse(work, table.models, max_bytes)
                version = route_and_validate(work, table, now_ms, stale=stale)
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

    async def _look_up(self, admitted: Mapping[ServedVersion, list[RequestContext]]) -> tuple[_Hits, _Misses]:
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

    def _take_off(self, misses: _Misses) -> dict[_Flight, list[RequestContext]]:
        """Join the calls that are already under way, and make calls for each version's others."""
        waiting: dict[_Flight, list[RequestContext]] = {}
        for version, works in misses.items():
            mine = _Flight(version)
            made = [mine]
            for work in works:
                key = work.cache_key
                flight = self._in_flight.get(key)
                if flight is None or not flight.takes(work):
                    if len(mine.keys) == MAX_FLIGHT:
                        mine = _Flight(version)
                        made.append(mine)
                    flight = self._in_flight[key] = mine
                    flight.takes(work)
                    mine.keys.append(key)
                    mine.inputs.append(work.input)
                if flight in waiting:
                    waiting[flight].append(work)
                else:
                    waiting[flight] = [work]
            for flight in made:
                flight.boarding = False
                if flight.keys:
                    task = asyncio.create_task(self._infer(flight))
                    self._flying.add(task)
                    task.add_done_callback(self._flying.discard)
        return waiting

    async def _infer(self, flight: _Flight) -> None:
        fresh: list[tuple[bytes, bytes]] = []
        version, keys = flight.version, flight.keys
        # From Unix time, which deadlines are in, to that of the loop; a moment later, so that by then the
        # requests are overdue rather than failed.
        deadline_loop_seconds = (
            asyncio.get_running_loop().time() + flight.deadline_unix_seconds - time.time() + 0.01
        )
        try:
            outcomes = await version.dispatcher.infer(
                flight.inputs, deadline_loop_seconds=deadline_loop_seconds
            )
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
            self._flights_landed += 1
            # Until the cache has them, equal inputs find them here.
            if fresh and version.spec.cache_ttl_seconds:
                await self._cache.set_many(fresh, version.spec.cache_ttl_seconds)
            for key in keys:
                # A later flight may have taken its place, for requests with more time.
                if self._in_flight[key] is flight:
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

    async def _land(
        self, flight: _Flight, works: list[RequestContext], table: ServingTable, answering: Answering
    ) -> None:
        """Answer when the call is done, or each request at its deadline."""
        while not flight.landed.done():
            deadlines = [work.deadline_unix_ms for work in works if work.deadline_unix_ms is not None]
            timeout = max(0.0, min(deadlines) / 1000 - time.time()) if deadlines else None
            await asyncio.wait([flight.landed], timeout=timeout)
            if not flight.landed.done():
                works = answering.expire(works)
                await answering.outbox.flush()
                if not works:
                    return
        version = flight.version
        production = table.models[version.model_name].production if version.falls_back else None
        may_fall_back = production is not None and production is not version
        left = answering.results(
            version, answering.expire(works), flight.results, may_fall_back=may_fall_back
        )
        await answering.outbox.flush()
        if production is not None and left:
            await self._fall_back(left, production, table, answering)

    async def _fall_back(
        self,
        works: list[RequestContext],
        production: ServedVersion,
        table: ServingTable,
        answering: Answering,
    ) -> None:
        """Have production answer what another version failed to."""
        able: list[RequestContext] = []
        for work in works:
            if production.input_is_valid(work.input):
                work.cache_key = production.cache_prefix + work.digest
                able.append(work)
            else:
                assert work.failure is not None  # that is why it is here
                answering.error(work, work.failure)
        await self._serve({production: able}, table, answering)
