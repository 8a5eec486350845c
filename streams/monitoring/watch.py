"""From deltas to alerts that are told: the shell around the engine.

An event is noted in PostgreSQL together with what fires, and then published: a monitor that dies in between
leaves it to the next one, which publishes it with the same `alert_id`. What a new monitor needs of the
past it reads from the windows that are in PostgreSQL anyway. While PostgreSQL is away nothing is judged, because
deltas wait too.

Deltas are added and rules judged in turns, so that no delta is both in the history and added to it.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Protocol, TypeVar

import structlog

from registry.alert_events import AlertEvents
from registry.metric_windows import MetricWindows
from registry.retry import until_reachable
from schemas.alert_rules import GLOBAL, GlobalRules, ModelRules
from schemas.errors import RegistryUnavailableError, SetupError, UnavailableError
from schemas.events import Alert, MetricsDelta
from schemas.windows import Window
from streams.monitoring.engine import AlertEngine
from streams.monitoring.rules.global_rules import Sample

log = structlog.get_logger()

EVALUATE_EACH_SECONDS = 0.5
SAMPLE_EACH_SECONDS = 5.0
PUBLISH_EACH_SECONDS = 5.0
# As long as the engine keeps them.
_HISTORY = {10: timedelta(minutes=10), 60: timedelta(hours=6)}
# A delta is a second long and half a second on its way: so late is what is known of all workers.
_DELTAS_TAKE_SECONDS = 1.5

Result = TypeVar("Result")


class Following(Protocol):
    """What the registry says; see streams/monitoring/followed_models.py."""

    @property
    def model_rules(self) -> Mapping[str, ModelRules]: ...
    @property
    def global_rules(self) -> GlobalRules: ...
    def route_of(self, model_name: str) -> tuple[Mapping[str, float], str | None] | None: ...


class Assigned(Protocol):
    """Which models are this monitor's; see streams/monitoring/assignment.py."""

    @property
    def settled(self) -> bool: ...
    @property
    def generation(self) -> int: ...
    def owns(self, model_name: str) -> bool: ...
    def is_read(self, model_name: str) -> bool: ...
    def partition_of(self, model_name: str) -> int: ...


class AlertWatch:
    """Watches the models of this monitor's partitions; `attempts` counts questions to PostgreSQL.

    `publish` returns when the broker has an event, and raises UnavailableError; `notify` is given each event, and
    never waits.
    """

    def __init__(
        self,
        windows: MetricWindows,
        alert_events: AlertEvents,
        following: Following,
        assigned: Assigned,
        *,
        publish: Callable[[Alert], Awaitable[None]],
        notify: Callable[[Alert], None],
    ) -> None:
        self._windows = windows
        self._alert_events = alert_events
        self._following = following
        self._assigned = assigned
        self._publish = publish
        self._notify = notify
        self._engine = AlertEngine()
        self._generation: int | None = None
        self._horizons: dict[int, float] = {}
        self._news = asyncio.Event()
        self.turn = asyncio.Lock()
        """Held while deltas are added or rules judged."""
        self.attempts = 0
        self.sampled: Sample | None = None
        """What was last seen of the installation, if this monitor looks after it."""

    @property
    def firing(self) -> list[Alert]:
        """What fires of this monitor's models."""
        return list(self._engine.book.firing.values())

    @property
    def models(self) -> list[str]:
        """What is watched."""
        return self._engine.models

    async def begin(self, model_names: Iterable[str]) -> None:
        """Read the history of models that were not seen yet, before deltas are added to it."""
        await self._renew()
        for model_name in model_names:
            await self._begin(model_name)

    def observe(self, partition: int, deltas: Iterable[MetricsDelta]) -> None:
        """Judge by what was just added too."""
        now = time.time()
        deltas = list(deltas)
        self._engine.observe(deltas, now)
        if deltas:
            newest = max(delta.window_end.timestamp() for delta in deltas)
            self._horizons[partition] = max(self._horizons.get(partition, 0.0), min(newest, now))

    async def run_evaluation_loop(self) -> None:
        """Judge the rules of all models, twice a second. Ends when cancelled."""
        while True:
            await asyncio.sleep(EVALUATE_EACH_SECONDS)
            if self._assigned.settled:
                async with self.turn:
                    await self._renew()
                    await self._judge_models()

    async def run_sampling_loop(self, sample: Callable[[], Awaitable[Sample]]) -> None:
        """Judge the rules of the installation, where that is this monitor's. Ends when cancelled."""
        while True:
            await asyncio.sleep(SAMPLE_EACH_SECONDS)
            if not (self._assigned.settled and self._assigned.owns(GLOBAL)):
                continue
            try:
                taken = await sample()
            except (UnavailableError, SetupError) as error:
                log.debug("installation not sampled", reason=str(error))
                continue
            self.sampled = taken
            async with self.turn:
                await self._renew()
                self._engine.global_rules = self._following.global_rules
                await self._record(self._engine.evaluate_global(taken))

    async def run_publishing_loop(self) -> None:
        """Publish the events of this monitor's models, also those that another one left. Ends when cancelled."""
        while True:
            self._news.clear()
            try:
                for event in await self._alert_events.unpublished():
                    if self._assigned.settled and self._assigned.owns(event.alert.model_name):
                        await self._publish(event.alert)
                        await self._alert_events.mark_published(event)
            except (UnavailableError, SetupError) as error:
                log.warning("alerts are not published yet", reason=str(error))
            try:
                async with asyncio.timeout(PUBLISH_EACH_SECONDS):
                    await self._news.wait()
            except TimeoutError:
                pass

    async def _judge_models(self) -> None:
        self._engine.model_rules = self._following.model_rules
        for model_name in self._engine.models:
            now = self._known_until(model_name)
            if now is None:
                continue
            route = self._following.route_of(model_name)
            if route is not None:
                self._engine.update_route(model_name, *route, now)
            await self._record(self._engine.evaluate(model_name, now))
            # Of many models each takes a fraction of a millisecond: others go on in between.
            await asyncio.sleep(0)

    def _known_until(self, model_name: str) -> float | None:
        """As of when a model can be judged: what is not read yet must not seem to be silence."""
        now = time.time()
        if self._assigned.is_read(model_name):
            return now
        horizon = self._horizons.get(self._assigned.partition_of(model_name))
        return None if horizon is None else min(now, horizon + _DELTAS_TAKE_SECONDS)

    async def _record(self, alerts: Iterable[Alert]) -> None:
        for alert in alerts:
            if await self._ask(partial(self._alert_events.record, alert)):
                log.warning(
                    "alert",
                    state=alert.state,
                    model_name=alert.model_name,
                    model_version=alert.model_version,
                    rule=alert.rule,
                    severity=alert.severity,
                    value=round(alert.value, 4),
                    threshold=round(alert.threshold, 4),
                )
                self._notify(alert)
                self._news.set()
            else:
                # Another monitor was there first: what it left is the truth.
                self._generation = None

    async def _renew(self) -> None:
        """Begin anew when partitions have changed hands: meanwhile others may have counted and told."""
        generation = self._assigned.generation
        if generation == self._generation:
            return
        firing = [
            alert
            for alert in await self._ask(self._alert_events.firing)
            if self._assigned.owns(alert.model_name)
        ]
        self._engine = AlertEngine(firing)
        self._horizons.clear()
        since = datetime.now(UTC) - max(_HISTORY.values())
        known = await self._ask(partial(self._windows.models, since))
        for model_name in {*known, *(alert.model_name for alert in firing)}:
            await self._begin(model_name)
        self._generation = generation

    async def _begin(self, model_name: str) -> None:
        if model_name in ("", *self._engine.models) or not self._assigned.owns(model_name):
            return
        now = datetime.now(UTC)
        history: list[Window] = []
        for seconds, span in _HISTORY.items():
            read = partial(self._windows.read, model_name, seconds, now - span, now + timedelta(minutes=1))
            history += await self._ask(read)
        self._engine.begin(model_name, history)

    async def _ask(self, ask: Callable[[], Awaitable[Result]]) -> Result:
        async def counted() -> Result:
            self.attempts += 1
            return await ask()

        return await until_reachable(counted, waiting="alerts")


async def repeated(step: Callable[[], Awaitable[None]], *, each_seconds: float, failed: str) -> None:
    """Take a step again and again; when PostgreSQL is away it says once what `failed`. Ends when cancelled."""
    works = True
    while True:
        try:
            await step()
            works = True
        except (RegistryUnavailableError, SetupError) as error:
            if works:
                log.warning(failed, reason=str(error))
            works = False
        await asyncio.sleep(each_seconds)
