"""The Faust application of a worker, on the batched transport."""

import tempfile
from collections.abc import Callable

import faust
from mode.supervisors import CrashingSupervisor

from streams.kafka.aiokafka_consumer import HEARTBEAT_SECONDS, SESSION_TIMEOUT_SECONDS, TransportOptions
from streams.kafka.batch_producer import REQUEST_TIMEOUT_SECONDS, BatchProducer
from streams.kafka.broker_watch import BrokerWatch
from streams.kafka.offset_tracker import FULL_SLICE_WEIGHT
from streams.kafka.transport import (
    COMMIT_INTERVAL_SECONDS,
    SliceConsumer,
    SliceScheduler,
    SliceTransport,
)
from streams.process.watchdog import Progress


class WorkerApp(faust.App):
    """A Faust app without tables, web server or files.

    `on_fault` is called when one of its services crashes; Faust itself would continue without that service.
    """

    on_fault: Callable[[BaseException], None]

    def _crash(self, reason: BaseException) -> None:
        super()._crash(reason)
        self.on_fault(reason)

    def _create_directories(self) -> None:
        """The app keeps no files between runs."""


def worker_app(options: TransportOptions, on_fault: Callable[[BaseException], None]) -> WorkerApp:
    """An app that reads slices; `slice_agent` adds its agent before the app starts."""
    app = WorkerApp(
        options.group_id,
        broker=[f"kafka://{address.strip()}" for address in options.bootstrap.split(",")],
        ConsumerScheduler=SliceScheduler,
        agent_supervisor=CrashingSupervisor,
        broker_client_id=options.client_id,
        broker_commit_interval=COMMIT_INTERVAL_SECONDS,
        broker_heartbeat_interval=HEARTBEAT_SECONDS,
        broker_request_timeout=REQUEST_TIMEOUT_SECONDS,
        broker_session_timeout=SESSION_TIMEOUT_SECONDS,
        producer_request_timeout=REQUEST_TIMEOUT_SECONDS,
        datadir=tempfile.gettempdir(),
        # The offset tracker bounds the slices in flight, so the buffer is never full: a full one makes the fetcher
        # sleep for a second.
        stream_buffer_maxsize=options.max_outstanding * FULL_SLICE_WEIGHT + 1,
        stream_publish_on_commit=False,
        store="memory://",
        table_standby_replicas=0,
        topic_allow_declare=False,
        topic_disable_leader=True,
        web_enabled=False,
    )
    app.on_fault = on_fault
    app.transport = SliceTransport(app, options)
    return app


def output_of(app: WorkerApp) -> BatchProducer:
    """The app's producer, which runs from the app's start to its stop."""
    producer = app.producer
    assert isinstance(producer, BatchProducer)
    return producer


def watch_of(app: WorkerApp) -> BrokerWatch:
    """What watches the connections of the app's clients."""
    transport = app.transport
    assert isinstance(transport, SliceTransport)
    return transport.watch


def consumer_of(app: WorkerApp) -> SliceConsumer:
    """The app's consumer, which exists from the app's start on."""
    consumer = app.consumer
    assert isinstance(consumer, SliceConsumer)
    return consumer


def has_joined(app: WorkerApp) -> bool:
    """True when the app knows its assigned partitions, of which there may be none."""
    return app.consumer_generation_id > 0 and not app.rebalancing


def progress_of(app: WorkerApp) -> Progress:
    """The app's progress; the watchdog's thread calls this, so it only reads."""
    consumer = consumer_of(app)
    # A rebalance that does not end counts as work without progress.
    return Progress(
        waiting=app.rebalancing or not consumer.offsets.is_idle or consumer.lag() > 0,
        done=consumer.offsets.acknowledged_total + app.rebalancing_count,
    )
