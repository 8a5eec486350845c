"""The role `monitor`: reads metrics deltas, writes windows to PostgreSQL and publishes alerts."""

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import structlog

from registry.alert_events import AlertEvents
from registry.alert_rules import AlertRules
from registry.heartbeats import Heartbeats
from registry.metric_windows import MetricWindows
from registry.postgres import Database
from registry.store import RegistryStore
from schemas.events import Alert
from streams.config.settings import Settings
from streams.dashboard.feed import NOT_READ, Feed
from streams.dashboard.http_routes import show_page
from streams.dashboard.registry_reader import PageReader
from streams.kafka.assignment import PartitionAssignment
from streams.kafka.group_lag import GroupLag
from streams.kafka.topics import partition_counts
from streams.monitoring.followed_models import FOLLOW_EACH_SECONDS, FollowedModels
from streams.monitoring.monitor import Monitor
from streams.monitoring.rules.global_rules import Sample, WorkerStatus
from streams.monitoring.watch import NOT_EVALUATED, NOT_PUBLISHED, NOT_SAMPLED, AlertWatch
from streams.monitoring.webhook import Webhook
from streams.process.background import Job, background, periodic, run_each
from streams.prometheus.monitor_families import MonitorMetrics
from streams.roles.role_consumer import RoleConsumer, RoleContext

log = structlog.get_logger()

SLICE_MAX_DELTAS = 1000
DELETE_EACH_SECONDS = 600.0


@asynccontextmanager
async def monitor_role(context: RoleContext) -> AsyncIterator[None]:
    """Aggregate metrics deltas into windows and evaluate the alert rules while the block runs."""
    settings = context.settings
    await partition_counts(settings, [settings.topic_metrics, settings.topic_alerts])
    consumer = RoleConsumer(
        context,
        "monitor",
        settings.topic_metrics,
        group_id=settings.monitor_group_id,
        slice_max_records=SLICE_MAX_DELTAS,
        in_order=True,
    )
    async with AsyncExitStack() as opened:
        database = await Database.connect(settings.postgres_dsn.get_secret_value())
        opened.push_async_callback(database.close)
        lag = GroupLag(settings, group_id=settings.group_id, topic=settings.topic_requests)
        opened.push_async_callback(lag.close)
        windows, alert_events = MetricWindows(database), AlertEvents(database)
        store, heartbeats = RegistryStore(database), Heartbeats(database)
        following = FollowedModels(store, AlertRules(database))
        webhook = _webhook(settings)
        watch = AlertWatch(
            windows,
            alert_events,
            following,
            PartitionAssignment(consumer.app, settings.topic_metrics),
            publish=partial(_publish, consumer, settings),
            notify=webhook.enqueue if webhook else _drop_alert,
        )
        monitor = Monitor(windows, watch, following)

        feed = Feed(PageReader(database), may_promote=settings.dashboard_token is not None)
        show_page(context.web, feed, settings, host=settings.http_host)

        async def sample() -> Sample:
            return Sample(
                at=time.time(),
                offsets=await lag.read(),
                workers=[
                    WorkerStatus(
                        heartbeat.worker,
                        heartbeat.boot_id,
                        age_seconds,
                        heartbeat.epoch,
                        tuple(heartbeat.behind),
                    )
                    for heartbeat, age_seconds in await heartbeats.all()
                ],
                epoch=await store.epoch(),
                missing_deltas=sum((await windows.missing_deltas(settings.topic_metrics)).values()),
            )

        def jobs() -> Iterator[Job]:
            yield periodic(
                following.refresh,
                interval_seconds=FOLLOW_EACH_SECONDS,
                failed_event="routes and rules not read",
            )
            yield Job(NOT_EVALUATED, watch.run_evaluation_loop)
            yield Job(NOT_SAMPLED, partial(watch.run_sampling_loop, sample))
            yield Job(NOT_PUBLISHED, watch.run_publishing_loop)
            yield Job(NOT_READ, feed.run_reading_loop)
            if webhook is not None:
                yield Job(
                    "alerts not delivered to the webhook",
                    partial(webhook.run_delivery_loop, lambda: watch.firing),
                )
            yield periodic(
                partial(_delete_old_metrics, windows, alert_events, settings),
                interval_seconds=DELETE_EACH_SECONDS,
                failed_event="old metrics not deleted",
            )

        async with (
            consumer.reading(monitor.process, attempts=lambda: monitor.attempts),
            background(*jobs()),
        ):
            context.metrics.add(MonitorMetrics(monitor, watch).read)
            log.info("monitor role started", topic=settings.topic_metrics)
            yield


def _webhook(settings: Settings) -> Webhook | None:
    url = settings.alert_webhook_url
    if url is None:
        return None
    return Webhook(url.get_secret_value(), ca_file=settings.alert_webhook_ssl_cafile)


def _drop_alert(_: Alert) -> None:
    """There is no webhook."""


async def _publish(consumer: RoleConsumer, settings: Settings, alert: Alert) -> None:
    await consumer.send(
        settings.topic_alerts, alert.model_dump_json().encode(), key=alert.model_name.encode(), headers=[]
    )


async def _delete_old_metrics(windows: MetricWindows, alert_events: AlertEvents, settings: Settings) -> None:
    """Delete the windows and alert events that are older than their retention."""
    await run_each(
        partial(windows.forget, {10: settings.metrics_keep_10s_hours * 3600.0}),
        partial(windows.forget, {60: settings.metrics_keep_1m_days * 86_400.0}),
        partial(windows.forget, {3600: settings.metrics_keep_1h_days * 86_400.0}),
        alert_events.forget,
    )
