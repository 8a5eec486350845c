"""The role `predict`: requests in, answers out.

Start: pools and the serving table first, then the Kafka side, so that the first slice finds all it
needs. End: what is in flight is answered and committed, the last metrics are sent, the heartbeat is
removed.
"""

import asyncio
import gc
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime

import structlog

from registry.broadcast import HintListener
from registry.follower import EpochFollower
from registry.heartbeats import Heartbeats
from registry.store import RegistryStore
from streams.config.identity import Identity
from streams.config.security import kafka_security, redis_options
from streams.config.settings import Settings
from streams.kafka.faust_app import WorkerApp, has_joined, output_of, progress_of, worker_app
from streams.kafka.slice_agent import slice_agent
from streams.kafka.topics import check_partition_counts, message_limits, partition_counts
from streams.kafka.transport import TransportOptions
from streams.models.backend_loader import BackendLoader
from streams.process.background import OnFault, background
from streams.process.http import Web
from streams.process.watchdog import Progress, Watchdog
from streams.prometheus.consumer_families import ConsumerMetrics
from streams.prometheus.page import MetricsPage
from streams.prometheus.predict_families import PredictMetrics
from streams.serving.active_tables import ActiveTables
from streams.serving.deltas import DeltaSender
from streams.serving.heartbeat import remove_heartbeat, send_heartbeats
from streams.serving.output_batching import OutputTopic
from streams.serving.pipeline import Pipeline, PipelineOptions
from streams.serving.refresh import ServingRefresher
from streams.serving.request_metrics import MetricsRegistry
from streams.serving.version_loader import TracerOf, VersionLoader
from streams.tracing.provider import tracing
from workers.cache.redis_cache import PredictionCache

log = structlog.get_logger()

# The collector's default thresholds cost a quarter of the throughput: a slice makes thousands of
# objects that live for milliseconds and form no cycles.
GC_THRESHOLDS = (200_000, 50, 50)

# The model's thread asks for the interpreter between its runs. At the default of 5 ms it waits
# longer than it computes, and a core stands idle: a tenth of the throughput of a cold cache.
SWITCH_INTERVAL_SECONDS = 0.0005


@asynccontextmanager
async def predict_role(
    settings: Settings, identity: Identity, on_fault: OnFault, web: Web, metrics: MetricsPage
) -> AsyncIterator[None]:
    """Answer requests while the block runs."""
    book = MetricsRegistry(identity.worker, identity.boot_id, datetime.now(UTC))
    tables = ActiveTables()
    async with (
        # The last that ends: until then there are spans.
        tracing(settings, identity) as spans,
        _store(settings) as store,
        _refresher(settings, store, tables, book, None if spans is None else spans.calls_of) as refresher,
        _cache(settings) as cache,
    ):
        pipeline_options = await _pipeline_options(settings)
        app = worker_app(
            TransportOptions(
                bootstrap=settings.kafka_bootstrap,
                group_id=settings.group_id,
                client_id=f"headrace-{identity.worker}",
                slice_max_records=settings.slice_max_records,
                # As many again wait in memory, so that a slice is at hand when one is done.
                max_outstanding=2 * settings.slices_in_flight,
                fetch_max_bytes=settings.fetch_max_bytes,
                security=kafka_security(settings),
            ),
            on_fault=on_fault,
        )
        web.ready_when("predict: partitions are known", lambda: has_joined(app))
        web.ready_when("predict: the registry was read lately", lambda: not refresher.is_stale())
        pipeline = Pipeline(
            tables=tables,
            is_stale=refresher.is_stale,
            cache=cache,
            output=output_of(app),
            metrics=book,
            options=pipeline_options,
            tracer=spans,
        )
        slice_agent(
            app,
            settings.topic_requests,
            pipeline.process,
            slices_in_flight=settings.slices_in_flight,
            on_fault=on_fault,
        )
        watchdog = Watchdog(
            # On a slow model server a slice may take long, and calls end all the same.
            lambda: _progress(progress_of(app), pipeline),
            lambda: max(settings.watchdog_seconds, 2 * tables.current.longest_timeout_seconds()),
        )
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)

        deltas = DeltaSender(book, settings.topic_metrics)

        async def send_last_deltas(*_: object, **__: object) -> None:
            await deltas.send(output_of(app).kafka)

        # By then every slice is answered, and the producer is still there.
        app.on_before_shutdown.connect(send_last_deltas)
        heartbeats = Heartbeats(store.database)
        listener = HintListener(
            settings.redis_url.get_secret_value(),
            on_hint=refresher.on_hint,
            on_connected=refresher.poll_now,
            timeout_seconds=settings.redis_timeout_seconds,
            connection_options=redis_options(settings),
        )
        # Before the first slice and after the last one: whoever waits for this worker to follow a change
        # must know of it as long as it answers.
        async with background(
            on_fault,
            refresher.run(),
            listener.run(),
            send_heartbeats(heartbeats, tables, identity, interval_seconds=settings.registry_poll_seconds),
        ):
            await app.start()
            watchdog.start()
            metrics.add(PredictMetrics(book, tables, refresher).read)
            metrics.add(ConsumerMetrics(app, settings.topic_requests).read)
            async with background(on_fault, _publish(settings, app, deltas)):
                log.info("serving", epoch=tables.current.epoch, models=len(tables.current.models))
                yield
            await app.stop()
            watchdog.stop()
            await pipeline.close()
        await remove_heartbeat(heartbeats, identity)


def _progress(consumed: Progress, pipeline: Pipeline) -> Progress:
    return replace(consumed, done=consumed.done + pipeline.calls_done)


async def _pipeline_options(settings: Settings) -> PipelineOptions:
    """What the topics allow; raises SetupError when they do not fit each other."""
    responses, dead_letters = settings.topic_responses, settings.topic_dead_letters
    counts = await partition_counts(
        settings, [settings.topic_requests, responses, dead_letters, settings.topic_metrics]
    )
    check_partition_counts(settings, counts)
    limits = await message_limits(settings, [responses, dead_letters])
    return PipelineOptions(
        responses=OutputTopic(responses, limits[responses]),
        dead_letters=OutputTopic(dead_letters, limits[dead_letters]),
        dead_letter_partitions=counts[dead_letters],
        max_record_bytes=settings.max_record_bytes,
    )


async def _publish(settings: Settings, app: WorkerApp, deltas: DeltaSender) -> None:
    while True:
        await asyncio.sleep(settings.metrics_interval_seconds)
        await deltas.send(output_of(app).kafka)


@asynccontextmanager
async def _store(settings: Settings) -> AsyncIterator[RegistryStore]:
    store = await RegistryStore.connect(settings.postgres_dsn.get_secret_value())
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def _refresher(
    settings: Settings,
    store: RegistryStore,
    tables: ActiveTables,
    book: MetricsRegistry,
    tracer_of: TracerOf | None,
) -> AsyncIterator[ServingRefresher]:
    refresher = ServingRefresher(
        EpochFollower(store.epoch, store.load),
        tables,
        VersionLoader(
            BackendLoader(settings),
            on_load_failed=book.load_failed,
            meter_of=book.meter,
            tracer_of=tracer_of,
        ),
        poll_seconds=settings.registry_poll_seconds,
        stale_after_seconds=settings.stale_after_seconds,
    )
    try:
        await refresher.refresh()
        await refresher.wait_for_loads()
        yield refresher
    finally:
        await refresher.close()


@asynccontextmanager
async def _cache(settings: Settings) -> AsyncIterator[PredictionCache]:
    cache = PredictionCache(
        settings.redis_url.get_secret_value(),
        timeout_seconds=settings.redis_timeout_seconds,
        connection_options=redis_options(settings),
    )
    try:
        yield cache
    finally:
        await cache.close()
