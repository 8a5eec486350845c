"""The role `predict`: reads requests, answers them and publishes metrics deltas.

Start: open the connections, load the active versions, then join the consumer group, so that the first slice finds
all that it needs. Versions that take long to load are awaited for a limited time. End: answer and commit the slices in flight, send the last metrics, remove the heartbeat.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial

import structlog

from registry.broadcast import HintListener
from registry.follower import EpochFollower
from registry.heartbeats import Heartbeats
from registry.installation import Installation, read_installation
from registry.store import RegistryStore
from streams.config.security import redis_options
from streams.config.settings import Settings
from streams.kafka.faust_app import WorkerApp, output_of
from streams.kafka.topics import message_limits, partition_counts, partitions_advice
from streams.models.backend_loader import BackendLoader
from streams.process.background import Job, background
from streams.process.interpreter import tune_garbage_collector, tune_thread_switching
from streams.prometheus.predict_families import PredictMetrics
from streams.roles.role_consumer import RoleConsumer, RoleContext
from streams.serving.active_tables import ActiveTables
from streams.serving.deltas import NOT_SENT, DeltaSender
from streams.serving.heartbeat import HEARTBEAT_NOT_SENT, remove_heartbeat, send_heartbeats
from streams.serving.load_journal import LoadJournal
from streams.serving.output_batching import OutputTopic
from streams.serving.output_buffer import OutputBuffer
from streams.serving.pipeline import Pipeline
from streams.serving.pipeline_options import PipelineOptions
from streams.serving.refresh import ServingRefresher
from streams.serving.request_metrics import MetricsRegistry
from streams.serving.version_loader import TracerOf, VersionLoader
from streams.tracing.provider import tracing
from workers.cache.redis_cache import PredictionCache
from workers.calls.observers import Gate

log = structlog.get_logger()

# In a rebalance the whole group waits for its slowest member.
HAND_OVER_SECONDS = 3.0


@asynccontextmanager
async def predict_role(context: RoleContext) -> AsyncIterator[None]:
    """Answer requests while the block runs."""
    settings, identity = context.settings, context.identity
    tables = ActiveTables()
    metrics = MetricsRegistry(identity.worker, identity.boot_id, datetime.now(UTC), tables.revision_of)
    buffer = OutputBuffer(settings.output_buffer_bytes)
    async with (
        # Outermost, so that it still exports the spans that end during shutdown.
        tracing(settings, identity) as spans,
        _store(settings) as (store, installation),
        _refresher(
            settings, store, tables, metrics, gate=buffer, tracer_of=None if spans is None else spans.calls_of
        ) as refresher,
        _cache(settings, installation) as cache,
    ):
        pipeline_options = await _pipeline_options(settings)
        consumer = RoleConsumer(
            context,
            "predict",
            settings.topic_requests,
            group_id=settings.group_id,
            slice_max_records=settings.slice_max_records,
            slices_in_flight=settings.slices_in_flight,
            slices_ahead=settings.slices_in_flight,
            slices_set_aside=settings.slices_set_aside,
            hand_over_seconds=HAND_OVER_SECONDS,
        )
        await _wait_for_loads(refresher, context)
        if context.stop.is_set():
            # No group is joined: the workers that have the partitions keep them.
            yield
            return
        # The registry was read before the wait.
        refresher.poll_now()
        pipeline = Pipeline(
            tables=tables,
            is_stale=refresher.is_stale,
            cache=cache,
            output=output_of(consumer.app),
            buffer=buffer,
            metrics=metrics,
            options=pipeline_options,
            tracer=spans,
        )
        tune_garbage_collector()
        tune_thread_switching()

        deltas = DeltaSender(metrics, settings.topic_metrics)

        async def send_last_deltas(*_: object, **__: object) -> None:
            await deltas.send(output_of(consumer.app))

        # At this signal every slice is answered, and the producer still runs.
        consumer.app.on_before_shutdown.connect(send_last_deltas)
        heartbeats = Heartbeats(store.database)
        listener = HintListener(
            channel=installation.hint_channel,
            on_hint=refresher.on_hint,
            on_connected=refresher.poll_now,
            **redis_options(settings),
        )
        # Heartbeats begin before the first slice and end after the last one: an operator who waits for the workers
        # to serve a change must see this worker for as long as it answers requests.
        async with background(
            Job("registry not followed", refresher.run),
            Job("hints not received", listener.run),
            Job(
                HEARTBEAT_NOT_SENT,
                partial(
                    send_heartbeats,
                    heartbeats,
                    tables,
                    identity,
                    interval_seconds=settings.registry_poll_seconds,
                ),
            ),
        ):
            async with (
                consumer.reading(
                    pipeline.process,
                    attempts=lambda: metrics.calls_ended,
                    # A slice may wait for many calls of a slow model server; each of them ends by its own timeout.
                    stall_seconds=lambda: max(
                        settings.watchdog_seconds, 2 * tables.current.longest_timeout_seconds()
                    ),
                    drain_seconds=None,
                ),
                background(Job(NOT_SENT, partial(_send_deltas, settings, consumer.app, deltas))),
            ):
                context.metrics.add(
                    PredictMetrics(
                        metrics,
                        tables,
                        refresher,
                        rejected_cache_values=lambda: cache.rejected_values,
                        waiting=pipeline.bulkhead.waiting,
                        unsent_bytes=lambda: buffer.used_bytes,
                    ).read
                )
                refresher.serving_began()
                log.info(
                    "predict role started", epoch=tables.current.epoch, models=len(tables.current.models)
                )
                yield
            await pipeline.close()
        await remove_heartbeat(heartbeats, identity)


async def _pipeline_options(settings: Settings) -> PipelineOptions:
    """The limits that the topics set; raises SetupError when one is missing."""
    responses, dead_letters = settings.topic_responses, settings.topic_dead_letters
    counts = await partition_counts(
        settings, [settings.topic_requests, responses, dead_letters, settings.topic_metrics]
    )
    if advice := partitions_advice(settings, counts):
        log.warning("some responses go to other partitions than their requests", reason=advice)
    limits = await message_limits(settings, [responses, dead_letters])
    return PipelineOptions(
        responses=OutputTopic(responses, limits[responses]),
        dead_letters=OutputTopic(dead_letters, limits[dead_letters]),
        max_record_bytes=settings.max_record_bytes,
    )


async def _wait_for_loads(refresher: ServingRefresher, context: RoleContext) -> None:
    """Wait until the versions are loaded, the process is to end, or `start_wait_seconds` have passed."""
    waits = [asyncio.create_task(refresher.wait_for_loads()), asyncio.create_task(context.stop.wait())]
    await asyncio.wait(
        waits, timeout=context.settings.start_wait_seconds, return_when=asyncio.FIRST_COMPLETED
    )
    for wait in waits:
        wait.cancel()
    await asyncio.gather(*waits, return_exceptions=True)


async def _send_deltas(settings: Settings, app: WorkerApp, deltas: DeltaSender) -> None:
    while True:
        await asyncio.sleep(settings.metrics_interval_seconds)
        await deltas.send(output_of(app))


@asynccontextmanager
async def _store(settings: Settings) -> AsyncIterator[tuple[RegistryStore, Installation]]:
    store = await RegistryStore.connect(settings.postgres_dsn.get_secret_value())
    try:
        yield store, await read_installation(store.database)
    finally:
        await store.close()


@asynccontextmanager
async def _refresher(
    settings: Settings,
    store: RegistryStore,
    tables: ActiveTables,
    metrics: MetricsRegistry,
    *,
    gate: Gate,
    tracer_of: TracerOf | None,
) -> AsyncIterator[ServingRefresher]:
    refresher = ServingRefresher(
        EpochFollower(store.epoch, store.load),
        tables,
        VersionLoader(
            BackendLoader(settings),
            journal=LoadJournal(settings.artifact_folder / "loads"),
            timeout_seconds=settings.load_timeout_seconds,
            on_load_failed=metrics.load_failed,
            meter_of=metrics.meter,
            tracer_of=tracer_of,
            gate=gate,
        ),
        poll_seconds=settings.registry_poll_seconds,
        stale_after_seconds=settings.stale_after_seconds,
    )
    try:
        await refresher.refresh()
        yield refresher
    finally:
        await refresher.close()


@asynccontextmanager
async def _cache(settings: Settings, installation: Installation) -> AsyncIterator[PredictionCache]:
    cache = PredictionCache(
        namespace=installation.cache_namespace, secret=installation.cache_secret, **redis_options(settings)
    )
    try:
        yield cache
    finally:
        await cache.close()
