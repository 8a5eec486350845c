"""The request path of one slice, from top to bottom.

    step         here                            in
    slice        Pipeline.process                streams/kafka/slice_agent.py calls it
    parse, route _parse_route_validate           streams/serving/plain_requests.py, for many records at once;
    validate                                     streams/serving/requests.py, for each record that is not plain
    cache        _ask                            streams/serving/cache_reading.py look_up
    admit        _ask                            streams/serving/bulkhead.py     admit, enter
    coalesce     _ask                            streams/serving/coalescing.py   start_calls
    infer        _infer_and_validate             workers/calls/dispatch.py       infer
    validate     _validate_predictions           streams/serving/route_table.py  output_is_valid
    respond and count: _ask, _respond            streams/serving/responder.py    respond, respond_error
    acknowledge  `process` returns               streams/kafka/slice_agent.py

A slice goes through the steps to `coalesce` as a whole: one cache read, one call for each version's misses. Hits do
not wait for misses, and results do not wait for each other: what has its result is responded to, in turns, until
nothing waits (`waiting_requests.py`). All requests of a slice use one serving table. A request whose call failed may
go back to the cache step, once, with the production version (`fallback.py`).

Every record ends in a response, a dead letter, or both. An exception outside the tree of `schemas/errors.py`
is an internal fault. Where it concerns one record, that record gets INTERNAL; elsewhere it leaves `process`,
the worker ends, and the slice is fetched again.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from functools import partial
from operator import attrgetter
from typing import Any

import structlog

from schemas.errors import AnswerError, InvalidOutputError, MalformedRecordError
from schemas.json_schema import Explanations
from schemas.wire import encode
from streams.kafka.offset_tracker import Record, Slice
from streams.serving.bulkhead import Bulkhead
from streams.serving.cache_reading import Answered, CacheReader
from streams.serving.coalescing import CoalescedCall, Coalescer
from streams.serving.fallback import AskProduction, CallResult, after_call, production_for
from streams.serving.output_batching import OutputBatcher
from streams.serving.output_buffer import OutputBuffer
from streams.serving.pipeline_options import DEADLINE_MARGIN_SECONDS, PipelineOptions
from streams.serving.plain_requests import plain_requests
from streams.serving.ports import Cache, OnFailure, Output, SliceTracer, Tables
from streams.serving.request_metrics import MetricsRegistry
from streams.serving.requests import RequestContext, Requests, parse, route_and_validate
from streams.serving.responder import Responder
from streams.serving.response_encoding import DEAD_LETTER_REDUCTIONS, RESPONSE_REDUCTIONS, ResponseEncoder
from streams.serving.route_table import ServedVersion, ServingTable
from streams.serving.waiting_requests import Results, Turn, WaitingRequests

log = structlog.get_logger()

_offset = attrgetter("record.offset")
_NONE: Mapping[RequestContext, AnswerError] = {}


class Pipeline:
    """Answers slices. One for each worker; `process` runs for several slices at once."""

    def __init__(
        self,
        *,
        tables: Tables,
        is_stale: Callable[[], bool],
        cache: Cache,
        output: Output,
        buffer: OutputBuffer,
        metrics: MetricsRegistry,
        options: PipelineOptions,
        tracer: SliceTracer | None = None,
    ) -> None:
        self._tables = tables
        self._is_stale = is_stale
        self._cache = cache
        self._cache_reader = CacheReader(cache)
        self._output = output
        self._buffer = buffer
        self._metrics = metrics
        self._options = options
        self._tracer = tracer
        self._coalescer = Coalescer(self._infer_and_validate, self._store)
        self.bulkhead = Bulkhead()

    async def process(self, handled: Slice) -> None:
        """Answer every record of a slice; returns when the broker has all outputs.

        Then the caller acknowledges the slice. Raises what aiokafka raises when it cannot deliver. When it is
        cancelled, it sends nothing more, and returns when the slice knows which records are answered.
        """
        with self._tables.in_use() as table:
            if self._tracer is None:
                await self._process(handled, table)
            else:
                with self._tracer.slice(handled) as on_failure:
                    await self._process(handled, table, on_failure)

    async def close(self) -> None:
        """Cancel the calls in flight; no slice waits for them any more."""
        await self._coalescer.close()

    async def _process(
        self, handled: Slice, table: ServingTable, on_failure: OnFailure | None = None
    ) -> None:
        stale = self._is_stale()
        responder = self._responder(handled, on_failure, stale=stale)
        waiting = WaitingRequests(handled, self.bulkhead, self._buffer)
        try:
            # Nothing here keeps the requests: what is answered is freed, however long others wait.
            await self._ask(
                self._parse_route_validate(handled, table, responder, stale=stale), table, responder, waiting
            )
            turn: Turn | None = None
            while waiting:
                responder.when_delivered(partial(waiting.delivered, turn))
                turn = None
                await waiting.wait()
                turn = waiting.take(now_unix_ms := time.time() * 1000)
                for request in turn.overdue:
                    responder.respond_error(request, request.deadline_exceeded(now_unix_ms))
                await self._respond(turn.ready, table, responder, waiting)
            await responder.delivered()
        except asyncio.CancelledError:
            # The slice is handed back: what has been sent is answered, what waits is not.
            self._coalescer.abandon(waiting)
            await responder.sent_is_delivered()
            raise
        finally:
            waiting.close()
            responder.close()

    def _parse_route_validate(
        self, handled: Slice, table: ServingTable, responder: Responder, *, stale: bool
    ) -> Requests:
        """The valid requests of a slice by their versions; responds to the others."""
        max_bytes = self._options.max_record_bytes
        now_unix_ms = time.time() * 1000
        budget = Explanations()
        requests: Requests = {}
        others: Sequence[Record] = handled.records
        # A fault that concerns one record is found below.
        with suppress(Exception):
            requests, others = plain_requests(others, table, max_bytes, now_unix_ms, stale=stale)
        for record in others:
            request = RequestContext(record)
            try:
                parse(request, table.models, max_bytes)
                version = route_and_validate(request, table, now_unix_ms, stale=stale, explanations=budget)
            except AnswerError as error:
                request.refer_to_model(table)
                responder.respond_error(request, error)
            except MalformedRecordError as error:
                responder.dead_letter_only(request, error)
            except Exception:  # a fault that concerns one record must not stop its partition
                log.exception("internal fault", partition=handled.partition, offset=record.offset)
                responder.respond_internal(request)
            else:
                requests.setdefault(version, []).append(request)
        if others:
            # The responses to a user are in the order of his requests.
            for of_version in requests.values():
                of_version.sort(key=_offset)
        return requests

    async def _ask(
        self, requests: Requests, table: ServingTable, responder: Responder, waiting: WaitingRequests
    ) -> None:
        """Look up, respond to the hits and to what may not wait, start or join calls for the other misses."""
        for part in self._cache_reader.parts(requests):
            hits, misses = await self._cache_reader.look_up(part)
            refused = self.bulkhead.admit(misses, time.time() * 1000)
            self._coalescer.start_calls(misses, waiting)
            for version, (found, predictions) in hits.items():
                await responder.respond(
                    version, found, predictions, cached=True, first_errors=waiting.first_errors
                )
            results = {version: (list(errors), list(errors.values())) for version, errors in refused.items()}
            await self._respond(results, table, responder, waiting)

    async def _infer_and_validate(
        self, call: CoalescedCall
    ) -> AsyncGenerator[tuple[int, Sequence[CallResult]], None]:
        """The results of a call as batches end: valid predictions, or an error, for each input."""
        # Deadlines are in Unix time, the dispatcher's clock is the loop's.
        seconds_left = call.deadline_unix_seconds - time.time() + DEADLINE_MARGIN_SECONDS
        inputs, call.inputs = call.inputs, []
        outcomes = call.version.dispatcher.infer(
            inputs,
            digests=call.digests,
            sizes_bytes=call.sizes_bytes,
            deadline_loop_seconds=asyncio.get_running_loop().time() + seconds_left,
        )
        del inputs
        budget = Explanations()
        async with aclosing(outcomes):
            async for start, part in outcomes:
                yield start, [self._validate_predictions(call.version, outcome, budget) for outcome in part]

    def _validate_predictions(self, version: ServedVersion, outcome: Any, budget: Explanations) -> CallResult:
        if isinstance(outcome, AnswerError):
            return outcome
        if not version.output_is_valid(outcome):
            return version.refuse_output(outcome, budget)
        predictions = encode(outcome)
        limit = self._options.max_predictions_bytes
        if len(predictions) > limit:
            return InvalidOutputError(f"predictions have {len(predictions)} bytes; at most {limit} are sent")
        return predictions

    async def _store(
        self, version: ServedVersion, digests: Sequence[bytes], results: Sequence[CallResult]
    ) -> None:
        """Put the predictions among the results of a call into the cache."""
        ttl_seconds, prefix = version.cache_seconds, version.cache_prefix
        if ttl_seconds:
            predictions = [
                (prefix + digest, result)
                for digest, result in zip(digests, results, strict=True)
                if type(result) is bytes
            ]
            if predictions:
                await self._cache.set_many(predictions, ttl_seconds)

    async def _respond(
        self,
        ready: Mapping[ServedVersion, Results],
        table: ServingTable,
        responder: Responder,
        waiting: WaitingRequests,
    ) -> None:
        """Respond with the results of each version and flush; ask production where it may answer."""
        first_errors = waiting.first_errors
        for_production: Requests = {}
        for version, results in ready.items():
            production = production_for(version, table.models[version.model_name])
            own: Answered = [], []
            as_fallback: Answered = [], []
            for request, result in zip(*results, strict=True):
                first_error = first_errors.get(request)
                follows = after_call(request, result, first_error=first_error, production=production)
                if isinstance(follows, AskProduction):
                    assert production is not None  # otherwise nothing asks it
                    first_errors[request] = follows.first_error
                    for_production.setdefault(production, []).append(request)
                elif isinstance(follows, AnswerError):
                    responder.respond_error(request, follows)
                else:
                    answered, predictions = own if first_error is None else as_fallback
                    answered.append(request)
                    predictions.append(follows)
            for group, errors in ((own, _NONE), (as_fallback, first_errors)):
                if group[0]:
                    await responder.respond(version, *group, cached=False, first_errors=errors)
        await responder.flush()
        if for_production:
            await self._ask(for_production, table, responder, waiting)

    def _responder(self, handled: Slice, on_failure: OnFailure | None, *, stale: bool) -> Responder:
        options, partition, topic_id = self._options, handled.partition.partition, handled.topic_id
        return Responder(
            ResponseEncoder(handled.partition, stale=stale, attempt=handled.attempt, topic_id=topic_id),
            OutputBatcher(self._output, options.responses, partition, RESPONSE_REDUCTIONS),
            OutputBatcher(self._output, options.dead_letters, partition, DEAD_LETTER_REDUCTIONS),
            self._metrics,
            buffer=self._buffer,
            received_at=handled.received_at,
            on_failure=on_failure,
        )
