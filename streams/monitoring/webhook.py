"""Sends alerts to a receiver with the API of Alertmanager (POST /api/v2/alerts).

A firing alert is sent again each minute with an end some minutes ahead, as Alertmanager expects; the alert of a
monitor that died ends there by itself. Nothing waits for the receiver: alerts that could not be sent are sent with
the next ones, and the oldest are dropped when too many wait. The URL may contain a token, and is in no log.
"""

import asyncio
import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import httpx
import structlog

from schemas.backoff import backoff_seconds
from schemas.bounds import rfc3339
from schemas.events import Alert, JsonObject
from streams.monitoring.alert_text import format_alert
from workers.network.connections import new_client
from workers.network.endpoints import Outbound
from workers.network.retry import TOO_MANY_REQUESTS

log = structlog.get_logger()

AGAIN_EACH_SECONDS = 60.0
ENDS_AFTER = timedelta(minutes=5)
MAX_WAITING = 1000
MAX_TRIES = 5
CALL_SECONDS = 5.0
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 10.0
# The operator configures the receiver; any address is allowed.
_ANYWHERE = ("0.0.0.0/0", "::/0")


def as_alertmanager(alert: Alert, now: datetime) -> JsonObject:
    """PURE. One entry of the list that POST /api/v2/alerts takes."""
    labels = {
        "alertname": alert.rule,
        "rule": alert.rule,
        "scope": alert.scope,
        "source": "headrace",
        "severity": alert.severity,
        "model_name": alert.model_name,
        "model_version": alert.model_version,
    }
    annotations = {"summary": format_alert(alert), "alert_id": alert.alert_id}
    times = (
        {"endsAt": rfc3339(alert.at)}
        if alert.state == "resolved"
        else {"startsAt": rfc3339(alert.at), "endsAt": rfc3339(now + ENDS_AFTER)}
    )
    return {
        # Prometheus and Alertmanager treat empty labels as absent.
        "labels": {name: value for name, value in labels.items() if value},
        "annotations": annotations,
        **times,
    }


class Webhook:
    """Sends alerts to one receiver."""

    def __init__(self, url: str, *, ca_file: str | None = None) -> None:
        self._url = url
        self._outbound = Outbound(networks=_ANYWHERE, ca_file=ca_file)
        self._waiting: deque[Alert] = deque(maxlen=MAX_WAITING)
        self._news = asyncio.Event()

    def enqueue(self, alert: Alert) -> None:
        """Queue an event for delivery; does not block."""
        if len(self._waiting) == MAX_WAITING:
            log.warning("alert dropped: too many wait for the webhook")
        self._waiting.append(alert)
        self._news.set()

    async def run_delivery_loop(self, firing: Callable[[], Iterable[Alert]]) -> None:
        """Send queued events at once, and each minute all that are `firing`. Runs until it is cancelled.

        Raises SetupError when the bundle of certificate authorities cannot be read.
        """
        parts = urlsplit(self._url)
        root = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        async with AsyncExitStack() as opened:
            client = await opened.enter_async_context(
                await new_client(root, self._outbound, connect_timeout_seconds=CALL_SECONDS)
            )
            while True:
                await self._until_due()
                waiting = list(self._waiting)
                self._waiting.clear()
                events = {alert.alert_id: alert for alert in (*firing(), *waiting)}
                if events and not await self._post(client, list(events.values())):
                    # Firing alerts are sent again anyway; a resolved one is not.
                    again = [alert for alert in events.values() if alert.state == "resolved"]
                    self._waiting.extendleft(reversed(again))

    async def _until_due(self) -> None:
        try:
            async with asyncio.timeout(AGAIN_EACH_SECONDS):
                await self._news.wait()
        except TimeoutError:
            pass
        self._news.clear()

    async def _post(self, client: httpx.AsyncClient, alerts: Sequence[Alert]) -> bool:
        """True when the receiver accepted the alerts, or rejected them permanently."""
        now = datetime.now(UTC)
        body = [as_alertmanager(alert, now) for alert in alerts]
        failure = ""
        for tries in range(MAX_TRIES):
            if tries:
                await asyncio.sleep(
                    backoff_seconds(
                        tries,
                        first_seconds=FIRST_PAUSE_SECONDS,
                        longest_seconds=LONGEST_PAUSE_SECONDS,
                        chance=random.uniform(0.5, 1.0),  # noqa: S311  # no secret
                    )
                )
            try:
                # The answer's body says nothing, and may be of any size: it is not read.
                async with (
                    asyncio.timeout(CALL_SECONDS),
                    client.stream("POST", self._url, json=body) as answer,
                ):
                    status = answer.status_code
            except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
                # The text of the error may contain the URL.
                failure = type(error).__name__
                continue
            if status < 300:
                return True
            failure = f"status {status}"
            if status < 500 and status != TOO_MANY_REQUESTS:
                log.warning("webhook rejected alerts", alerts=len(body), reason=failure)
                return True
        log.warning("alerts not delivered to the webhook yet", alerts=len(body), reason=failure)
        return False
