"""What each role is given, and how each role reads its topic: as a member of a consumer group.

Several workers may have the same role. Kafka assigns each partition to one of them, and to another one when that
worker ends.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import structlog

from streams.config.identity import Identity
from streams.config.security import kafka_security
from streams.config.settings import Settings
from streams.kafka.aiokafka_consumer import TransportOptions
from streams.kafka.errors import kafka_connection_errors
from streams.kafka.faust_app import consumer_of, has_joined, output_of, progress_of, watch_of, worker_app
from streams.kafka.memberships import members_folder
from streams.kafka.record_source import Headers
from streams.kafka.slice_agent import SliceHandler, slice_agent
from streams.kafka.stepping_over import StepOver
from streams.process.background import OnFault
from streams.process.http import Web
from streams.process.watchdog import Progress, Watchdog
from streams.prometheus.consumer_families import ConsumerMetrics
from streams.prometheus.page import MetricsPage

log = structlog.get_logger()

# Well within `shutdown_seconds`.
DRAIN_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class RoleContext:
    """What a role is given by its worker; `stop` is set when the process is to end, and `on_fault` ends it."""

    settings: Settings
    identity: Identity
    web: Web
    metrics: MetricsPage
    stop: asyncio.Event
    on_fault: OnFault


class RoleConsumer:
    """Reads `topic` for a role; `app` has the producer of the role's output.

    At most `slices_in_flight` full slices are handled concurrently, and `slices_ahead` more are fetched. Slices that
    wait for long may be set aside, up to `slices_set_aside` full ones. `in_order`
    handles one slice at a time, in the order of the partition's offsets. `hand_over_seconds` is for the
    `TransportOptions`; without it the handler is never cancelled.
    """

    def __init__(
        self,
        context: RoleContext,
        role: str,
        topic: str,
        *,
        group_id: str,
        slice_max_records: int,
        slices_in_flight: int = 1,
        slices_ahead: int = 1,
        slices_set_aside: int = 0,
        in_order: bool = False,
        hand_over_seconds: float | None = None,
    ) -> None:
        settings = context.settings
        self._context = context
        self._topic = topic
        self._slices_in_flight = slices_in_flight
        self._slices_set_aside = slices_set_aside
        self._in_order = in_order
        self.app = worker_app(
            TransportOptions(
                bootstrap=settings.kafka_bootstrap,
                group_id=group_id,
                client_id=context.identity.client_id(role),
                slice_max_records=slice_max_records,
                max_outstanding=slices_in_flight + slices_ahead,
                fetch_max_bytes=settings.fetch_max_bytes,
                batch_max_bytes=settings.batch_max_bytes,
                members_folder=members_folder(settings),
                hand_over_seconds=hand_over_seconds,
                security=kafka_security(settings),
            ),
            on_fault=context.on_fault,
        )
        context.web.ready_when(f"{role}: partitions are known", lambda: has_joined(self.app))

    @asynccontextmanager
    async def reading(
        self,
        handle: SliceHandler,
        *,
        attempts: Callable[[], int],
        stall_seconds: Callable[[], float] | None = None,
        drain_seconds: float | None = DRAIN_SECONDS,
    ) -> AsyncIterator[None]:
        """Handle the topic's slices while the block runs.

        The watchdog ends the process after `stall_seconds` (the setting `watchdog_seconds` by default) without
        progress. A rising `attempts` counts as progress, so a wait for PostgreSQL does not end the process. After
        the block, the slices in flight have `drain_seconds` to finish (None: no limit). The next worker with
        this role reads the unfinished slices again.
        """
        context = self._context
        step_over = StepOver(self._send_dead_letter)
        slice_agent(
            self.app,
            self._topic,
            handle,
            step_over=step_over,
            slices_in_flight=self._slices_in_flight,
            slices_set_aside=self._slices_set_aside,
            in_order=self._in_order,
            on_fault=context.on_fault,
        )

        def progress() -> Progress:
            consumed = progress_of(self.app)
            return replace(consumed, done=consumed.done + attempts())

        watchdog = Watchdog(progress, stall_seconds or (lambda: context.settings.watchdog_seconds))
        with watch_of(self.app).filtering():
            with kafka_connection_errors(context.settings.kafka_bootstrap, self._topic):
                await self.app.start()
            watchdog.start()
            context.metrics.add(ConsumerMetrics(self.app, self._topic, step_over).read)
            yield
            stopping = asyncio.create_task(self.app.stop())
            await asyncio.wait([stopping], timeout=drain_seconds)
            if not stopping.done():
                log.warning("slices abandoned at shutdown", topic=self._topic)
                consumer_of(self.app).abandon_unacked()
            await stopping
            watchdog.stop()

    async def send(
        self, topic: str, value: bytes, *, key: bytes | None, headers: list[tuple[str, bytes]]
    ) -> None:
        """Write one JSON record; returns when the broker has it. Raises the errors of `kafka_errors`."""
        await output_of(self.app).deliver_record(
            topic, value, key=key, headers=[*headers, ("content-type", b"application/json")]
        )

    async def _send_dead_letter(self, headers: Headers) -> None:
        await output_of(self.app).deliver_headers(self._context.settings.topic_dead_letters, headers)
