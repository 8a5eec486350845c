"""A worker process from its start to its end.

Start: pools and the serving table first, then the Kafka side, so that the first slice finds all it
needs. End: SIGTERM or SIGINT stops fetching, what is in flight is answered and committed, and the
process exits 0; a timer behind it ends the process when that takes too long. A fault ends the
process at once with exit code 1: the slices that were not acknowledged come again.
"""

import asyncio
import gc
import os
import signal
import socket
import sys
import threading
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import structlog
from aiokafka.errors import KafkaError

from registry.store import RegistryStore
from streams.agents.predict import predict_agent
from streams.app import WorkerApp, worker_app
from streams.loading import BackendLoader
from streams.metrics import MetricsBook
from streams.pipeline import Pipeline, PipelineOptions
from streams.producing import BatchProducer
from streams.refresh import ServingRefresher
from streams.responses import OutputTopic
from streams.security import kafka_security, redis_options
from streams.settings import Settings
from streams.topics import check_partition_counts, message_limits, partition_counts
from streams.transport import SliceConsumer, TransportOptions
from streams.watchdog import Progress, Watchdog
from workers.cache import PredictionCache

log = structlog.get_logger()

EXIT_FAULT = 1
EXIT_SHUTDOWN_TOO_LONG = 75
"""EX_TEMPFAIL of sysexits.h: nothing is lost, but it was not an orderly end."""

# The collector's default thresholds cost a quarter of the throughput: a slice makes thousands of
# objects that live for milliseconds and form no cycles.
GC_THRESHOLDS = (200_000, 50, 50)

# The model's thread asks for the interpreter between its runs. At the default of 5 ms it waits
# longer than it computes, and a core stands idle: a tenth of the throughput of a cold cache.
SWITCH_INTERVAL_SECONDS = 0.0005


class PredictWorker:
    """The role `predict`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._name = settings.worker_name or f"{socket.gethostname()}-{os.getpid()}"
        self._boot_id = uuid.uuid4().hex
        self._stop = asyncio.Event()
        self._fault: BaseException | None = None

    async def run(self) -> None:
        """Serve until SIGTERM, SIGINT or a fault.

        Raises SetupError, RegistryUnavailableError or BrokerUnavailableError when it cannot start.
        """
        self._listen_to_signals()
        async with self._refresher() as refresher, self._cache() as cache:
            await self._serve(refresher, cache)

    async def _serve(self, refresher: ServingRefresher, cache: PredictionCache) -> None:
        settings = self._settings
        responses, dead_letters = settings.topic_responses, settings.topic_dead_letters
        counts = await partition_counts(
            settings, [settings.topic_requests, responses, dead_letters, settings.topic_metrics]
        )
        check_partition_counts(settings, counts)
        limits = await message_limits(settings, [responses, dead_letters])
        app = worker_app(
            TransportOptions(
                bootstrap=settings.kafka_bootstrap,
                group_id=settings.group_id,
                client_id=f"headrace-{self._name}",
                slice_max_records=settings.slice_max_records,
                # As many again wait in memory, so that a slice is at hand when one is done.
                max_outstanding=2 * settings.slices_in_flight,
                fetch_max_bytes=settings.fetch_max_bytes,
                security=kafka_security(settings),
            ),
            on_fault=self._fail,
        )
        book = MetricsBook(self._name, self._boot_id, datetime.now(UTC))
        pipeline = Pipeline(
            serving=lambda: refresher.table,
            is_stale=refresher.is_stale,
            cache=cache,
            output=_producer(app),
            metrics=book,
            options=PipelineOptions(
                responses=OutputTopic(responses, limits[responses]),
                dead_letters=OutputTopic(dead_letters, limits[dead_letters]),
                dead_letter_partitions=counts[dead_letters],
                max_record_bytes=settings.max_record_bytes,
            ),
        )
        predict_agent(
            app,
            settings.topic_requests,
            pipeline.process,
            slices_in_flight=settings.slices_in_flight,
            on_fault=self._fail,
        )
        watchdog = Watchdog(
            lambda: _progress(app),
            lambda: max(settings.watchdog_seconds, 2 * refresher.table.longest_timeout_seconds()),
        )
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)

        async def send_last_deltas(*_: object, **__: object) -> None:
            await self._send_deltas(app, book)

        # By then every slice is answered, and the producer is still there.
        app.on_before_shutdown.connect(send_last_deltas)
        await app.start()
        watchdog.start()
        background = [
            asyncio.create_task(refresher.run()),
            asyncio.create_task(self._publish(app, book)),
        ]
        for task in background:
            task.add_done_callback(self._ended)
        log.info("worker ready", worker=self._name, epoch=refresher.table.epoch)
        await self._stop.wait()
        if self._fault is not None:
            # An orderly end would wait for slices that are never going to be acknowledged.
            log.critical("the worker ends by a fault")
            os._exit(EXIT_FAULT)
        for task in background:
            task.remove_done_callback(self._ended)
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        await app.stop()
        watchdog.stop()
        await pipeline.close()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._fail(task.exception() or RuntimeError("a background task ended"))

    def _fail(self, error: BaseException) -> None:
        log.error("fault", exc_info=error)
        self._fault = self._fault or error
        self._stop.set()

    def _listen_to_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._shut_down, number)

    def _shut_down(self, number: int) -> None:
        if self._stop.is_set():
            return
        log.info("shutting down", signal=signal.Signals(number).name)
        limit = threading.Timer(self._settings.shutdown_seconds, _end_now)
        limit.daemon = True
        limit.start()
        self._stop.set()

    async def _publish(self, app: WorkerApp, book: MetricsBook) -> None:
        while True:
            await asyncio.sleep(self._settings.metrics_interval_seconds)
            await self._send_deltas(app, book)

    async def _send_deltas(self, app: WorkerApp, book: MetricsBook) -> None:
        producer = _producer(app).kafka
        for delta in book.close_window(datetime.now(UTC)):
            try:
                # Not awaited: a delta that is lost shows as a gap in `seq`.
                await producer.send(
                    self._settings.topic_metrics,
                    value=delta.model_dump_json().encode(),
                    key=delta.model_name.encode(),
                )
            except KafkaError as error:
                log.warning("metrics not sent", reason=repr(error))

    @asynccontextmanager
    async def _refresher(self) -> AsyncIterator[ServingRefresher]:
        settings = self._settings
        store = await RegistryStore.connect(settings.postgres_dsn.get_secret_value())
        try:
            refresher = ServingRefresher(
                store,
                BackendLoader(settings),
                poll_seconds=settings.registry_poll_seconds,
                stale_after_seconds=settings.stale_after_seconds,
            )
            try:
                await refresher.refresh()
                yield refresher
            finally:
                await refresher.close()
        finally:
            await store.close()

    @asynccontextmanager
    async def _cache(self) -> AsyncIterator[PredictionCache]:
        settings = self._settings
        cache = PredictionCache(
            settings.redis_url.get_secret_value(),
            timeout_seconds=settings.redis_timeout_seconds,
            connection_options=redis_options(settings),
        )
        try:
            yield cache
        finally:
            await cache.close()


def _producer(app: WorkerApp) -> BatchProducer:
    producer = app.producer
    assert isinstance(producer, BatchProducer)
    return producer


def _progress(app: WorkerApp) -> Progress:
    """Called from the watchdog's thread: reads only."""
    consumer = app.consumer
    assert isinstance(consumer, SliceConsumer)
    # A rebalance that does not end is no progress either.
    return Progress(
        waiting=app.rebalancing or consumer.ledger.outstanding > 0 or consumer.lag() > 0,
        done=consumer.ledger.acknowledged_total + app.rebalancing_count,
    )


def _end_now() -> None:
    log.critical("shutdown took too long; the process ends")
    os._exit(EXIT_SHUTDOWN_TOO_LONG)
