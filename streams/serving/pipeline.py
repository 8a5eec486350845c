"""The request path of one slice, from top to bottom.

    step         here                            in
    slice        Pipeline.process                streams/kafka/slice_agent.py calls it
    parse        _parse_route_validate           streams/serving/requests.py     parse
    route        _parse_route_validate           streams/serving/requests.py     route_and_validate
                                                 streams/serving/route_table.py  look-up of the version
    validate     _parse_route_validate           streams/serving/requests.py     route_and_validate
    cache        _look_up                        workers/cache/redis_cache.py    get_many
    admit        _answer                         streams/serving/bulkhead.py     admit, enter
    coalesce     _answer                         streams/serving/coalescing.py   start_calls, await_call
    infer        _infer_and_validate             workers/calls/dispatch.py       infer
    validate     _validate_predictions           streams/serving/route_table.py  output_is_valid
    respond      _respond_to_call, _answer       streams/serving/responder.py    respond, respond_error
    count        _respond_to_call, _answer       streams/serving/responder.py    the same calls
    acknowledge  `process` returns               streams/kafka/slice_agent.py

A slice goes through each step as a whole: one cache read, one call for each version's misses, one cache
write for each call, a few batches to Kafka. Hits do not wait for misses. All requests of a slice use one serving
table. The path has one loop: a request whose call failed may go back to the cache step, once, with the production
version (`fallback.py`).

Every record ends in a response, a dead letter, or both. An exception outside the tree of `schemas/errors.py`
is an internal fault. Where it concerns one record, that record gets INTERNAL; elsewhere it leaves `process`,
the worker ends, and the slice is fetched again.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any, cast

import orjson
import structlog

from schemas.errors import AnswerError, InvalidOutputError, MalformedRecordError
from schemas.json_schema import Explanations
from streams.kafka.offset_tracker import Slice
from streams.serving.bulkhead import Bulkhead, Requests, Waiting
from streams.serving.coalescing import CoalescedCall, Coalescer, await_call
from streams.serving.fallback import AskProduction, CallResult, after_call, production_for
from streams.serving.output_batching import OutputBatcher
from streams.serving.pipeline_options import DEADLINE_MARGIN_SECONDS, PipelineOptions
from streams.serving.ports import Cache, OnFailure, Output, SliceTracer, Tables
from streams.serving.request_metrics import MetricsRegistry
from streams.serving.requests import RequestContext, parse, route_and_validate
from streams.serving.responder import Responder
from streams.serving.response_encoding import DEAD_LETTER_REDUCTIONS, RESPONSE_REDUCTIONS, ResponseEncoder
from streams.serving.route_table import ServedVersion, ServingTable

log = structlog.get_logger()


Hits = dict[ServedVersion, tuple[list[RequestContext], list[bytes]]]
"""Requests with their predictions, by version."""

FirstErrors = Mapping[RequestContext, AnswerError]
"""What each request's own version failed with; empty on the first attempt."""

_FIRST_ATTEMPT: FirstErrors = {}


class Pipeline:
    """Answers slices. One for each worker; `process` runs for several slices at once."""

    def __init__(
        self,
        *,
        tables: Tables,
        is_stale: Callable[[], bool],
        cache: Cache,
        output: Output,
        metrics: MetricsRegistry,
        options: PipelineOptions,
        tracer: SliceTracer | None = None,
    ) -> None:
        self._tables = tables
        self._is_stale = is_stale
        self._cache = cache
        self._output = output
        self._metrics = metrics
        self._options = options
        self._tracer = tracer
        self._coalescer = Coalescer(self._infer_and_validate, self._store)
        self.bulkhead = Bulkhead()

    @property
    def calls_done(self) -> int:
        """How many calls have ended: progress for the watchdog while a slice takes long."""
        return self._coalescer.calls_done

    async def process(self, handled: Slice) -> None:
        """Answer every record of a slice; returns when the broker has all outputs.

        Then the caller acknowledges the slice. Raises what aiokafka raises when it cannot deliver.
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
        requests = self._parse_route_validate(handled, table, responder, stale=stale)
        await self._answer(requests, table, responder, _FIRST_ATTEMPT)
        await responder.delivered()

    def _parse_route_validate(
        self, handled: Slice, table: ServingTable, responder: Responder, *, stale: bool
    ) -> Requests:
        """The valid requests of a slice by their versions; responds to the others."""
        max_bytes = self._options.max_record_bytes
        now_unix_ms = time.time() * 1000
        budget = Explanations()
        requests: Requests = {}
        for record in handled.records:
            request = RequestContext(record)
            try:
                parse(request, table.models, max_bytes)
                version = route_and_validate(request, table, now_unix_ms, stale=stale, explanations=budget)
            except AnswerError as error:
                responder.respond_error(request, error)
            except MalformedRecordError as error:
                responder.dead_letter_only(request, error)
            except Exception:  # a fault that concerns one record must not stop its partition
                log.exception("internal fault", partition=handled.partition, offset=record.offset)
                responder.respond_internal(request)
            else:
                if version in requests:
                    requests[version].append(request)
                else:
                    requests[version] = [request]
        return requests

    async def _answer(
        self, requests: Requests, table: ServingTable, responder: Responder, first_errors: FirstErrors
    ) -> None:
        """Look up, respond to the hits, start or join calls for the misses, respond to each as its call ends."""
        hits, misses = await self._look_up(requests)
        refused = self.bulkhead.admit(misses, time.time() * 1000)
        calls = self._coalescer.start_calls(misses)
        admitted = [self.bulkhead.enter(call.version, of_call) for call, of_call in calls.items()]
        for version, (found, predictions) in hits.items():
            responder.respond(version, found, predictions, cached=True, first_errors=first_errors)
        await responder.flush()
        ends = [
            self._respond_to_call(call, waiting, table, responder, first_errors)
            for call, waiting in zip(calls, admitted, strict=True)
        ]
        ends += [
            self._respond_to_results(version, errors, table, responder, first_errors)
            for version, errors in refused.items()
        ]
        if not ends:
            return
        if len(ends) == 1:
            # The common case. A task would add a tenth to the cost of a slice of one request.
            await ends[0]
        else:
            await asyncio.gather(*ends)

    async def _look_up(self, requests: Requests) -> tuple[Hits, Requests]:
        """Split the requests of each version into cache hits and misses, with one read for all."""
        hits: Hits = {}
        misses: Requests = {}
        cacheable: Requests = {}
        for version, of_version in requests.items():
            (cacheable if version.spec.cache_ttl_seconds else misses)[version] = of_version
        if not cacheable:
            return hits, misses
        keys: list[bytes] = []
        for version, of_version in cacheable.items():
            prefix = version.cache_prefix
            keys += [prefix + request.digest for request in of_version]
        values = await self._cache.get_many(keys)
        start = 0
        for version, of_version in cacheable.items():
            of_these = values[start : start + len(of_version)]
            start += len(of_version)
            # Most slices are all hits or all misses.
            missing = of_these.count(None)
            if missing == 0:
                hits[version] = of_version, cast("list[bytes]", of_these)
            elif missing == len(of_version):
                misses[version] = of_version
            else:
                found, predictions, missed = [], [], []
                for request, value in zip(of_version, of_these, strict=True):
                    if value is None:
                        missed.append(request)
                    else:
                        found.append(request)
                        predictions.append(value)
                hits[version], misses[version] = (found, predictions), missed
        return hits, misses

    async def _infer_and_validate(self, call: CoalescedCall) -> None:
        """Fill the results of a call: valid predictions, or an error, for each input."""
        # Deadlines are in Unix time, the dispatcher's clock is the loop's.
        seconds_left = call.deadline_unix_seconds - time.time() + DEADLINE_MARGIN_SECONDS
        outcomes = await call.version.dispatcher.infer(
            call.inputs,
            sizes_bytes=call.sizes_bytes,
            deadline_loop_seconds=asyncio.get_running_loop().time() + seconds_left,
        )
        budget = Explanations()
        for digest, outcome in zip(call.digests, outcomes, strict=True):
            call.results[digest] = self._validate_predictions(call.version, outcome, budget)

    def _validate_predictions(self, version: ServedVersion, outcome: Any, budget: Explanations) -> CallResult:
        if isinstance(outcome, AnswerError):
            return outcome
        if not version.output_is_valid(outcome):
            return version.refuse_output(outcome, budget)
        predictions = orjson.dumps(outcome)
        limit = self._options.max_predictions_bytes
        if len(predictions) > limit:
            return InvalidOutputError(f"predictions have {len(predictions)} bytes; at most {limit} are sent")
        return predictions

    async def _store(self, call: CoalescedCall) -> None:
        """Put the predictions of a call into the cache."""
        ttl_seconds, prefix = call.version.spec.cache_ttl_seconds, call.version.cache_prefix
        if ttl_seconds:
            predictions = [
                (prefix + digest, result) for digest, result in call.results.items() if type(result) is bytes
            ]
            if predictions:
                await self._cache.set_many(predictions, ttl_seconds)

    async def _respond_to_call(
        self,
        call: CoalescedCall,
        waiting: Waiting,
        table: ServingTable,
        responder: Responder,
        first_errors: FirstErrors,
    ) -> None:
        """Respond when the call is done, or to each request at its deadline."""
        while not call.done.done():
            await await_call(call, waiting.requests)
            if not call.done.done():
                waiting.keep(responder.expire(waiting.requests))
                await responder.flush()
                if not waiting.requests:
                    return
        results = {request: call.results[request.digest] for request in responder.expire(waiting.requests)}
        waiting.keep(())
        await self._respond_to_results(call.version, results, table, responder, first_errors)

    async def _respond_to_results(
        self,
        version: ServedVersion,
        results: Mapping[RequestContext, CallResult],
        table: ServingTable,
        responder: Responder,
        first_errors: FirstErrors,
    ) -> None:
        """Respond with the result of each request; ask production where it may answer."""
        production = production_for(version, table.models[version.model_name])
        answered: list[RequestContext] = []
        predictions: list[bytes] = []
        failed: dict[RequestContext, AnswerError] = {}
        for request, result in results.items():
            first_error = first_errors.get(request)
            follows = after_call(request, result, first_error=first_error, production=production)
            if isinstance(follows, AskProduction):
                failed[request] = follows.first_error
            elif isinstance(follows, AnswerError):
                responder.respond_error(request, follows)
            else:
                answered.append(request)
                predictions.append(follows)
        if answered:
            responder.respond(version, answered, predictions, cached=False, first_errors=first_errors)
        await responder.flush()
        if failed:
            assert production is not None  # otherwise nothing asks it
            await self._answer({production: list(failed)}, table, responder, failed)

    def _responder(self, handled: Slice, on_failure: OnFailure | None, *, stale: bool) -> Responder:
        options, partition = self._options, handled.partition.partition
        letters_partition = partition % options.dead_letter_partitions
        return Responder(
            ResponseEncoder(handled.partition, stale=stale),
            OutputBatcher(self._output, options.responses, partition, RESPONSE_REDUCTIONS),
            OutputBatcher(self._output, options.dead_letters, letters_partition, DEAD_LETTER_REDUCTIONS),
            self._metrics,
            received_at=handled.received_at,
            on_failure=on_failure,
        )
