"""From metrics deltas to alerts: the shell around the engine, which reads and writes PostgreSQL and Kafka.

PostgreSQL stores an event together with the state of its alert; the event is published afterwards. When a monitor
dies in between, the next one publishes the event with the same `alert_id`. A monitor that starts reads the history
that the rules need from the windows in PostgreSQL. While PostgreSQL is unavailable no rule is evaluated, since no
delta is added either.

Adding deltas and evaluating rules exclude each other (`turn`), so that a delta is never both in the history that is
read and added to it.

Models are independent of each other: what fails of one model, or of one event, is logged, counted and tried again, and
keeps no other one.
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
from schemas.errors import HeadraceError, RegistryFaultError, UnavailableError
from schemas.events import Alert, MetricsDelta
from schemas.windows import Window
from streams.monitoring.alert_state import key_of
from streams.monitoring.engine import AlertEngine
from streams.monitoring.rules.evaluation import AlertKey
from streams.monitoring.rules.global_rules import Sample
from streams.process.background import FailureLog

log = structlog.get_logger()

NOT_EVALUATED = "alert rules not evaluated"
NOT_SAMPLED = "global rules not evaluated"
NOT_PUBLISHED = "alerts not published"
EVALUATE_EACH_SECONDS = 0.5
SAMPLE_EACH_SECONDS = 5.0
PUBLISH_EACH_SECONDS = 5.0
# The engine keeps windows for the same time.
_HISTORY = {10: timedelta(minutes=10), 60: timedelta(hours=6)}
# A delta covers a second and takes half a second to arrive.
_DELTA_DELAY_SECONDS = 1.5

Result = TypeVar("Result")


class RulesAndRoutes(Protocol):
    """Read from the registry; see streams/monitoring/followed_models.py."""

    @property
    def model_rules(self) -> Mapping[str, ModelRules]: ...
    @property
    def global_rules(self) -> GlobalRules: ...
    def route_of(self, model_name: str) -> tuple[Mapping[str, float], str | None, str | None] | None: ...


class OwnedModels(Protocol):
    """The models whose deltas this monitor reads; `streams/kafka/assignment.py` implements it for keys."""

    @property
    def settled(self) -> bool: ...
    @property
    def generation(self) -> int: ...
    def owns(self, model_name: str) -> bool: ...
    def is_read(self, model_name: str) -> bool: ...
    def partition_of(self, model_name: str) -> int: ...


class AlertWatch:
    """Evaluates the rules of the models in this monitor's partitions.

    `publish` returns when the broker has an event, and raises UnavailableError. `notify` takes each event and does
    not block. `attempts` counts the calls to PostgreSQL, for a watchdog.
    """

    def __init__(
        self,
        windows: MetricWindows,
        alert_events: AlertEvents,
        following: RulesAndRoutes,
        assigned: OwnedModels,
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
        self._failures = FailureLog(NOT_EVALUATED)
        self._unrecorded: dict[AlertKey, Alert] = {}
        self._generation: int | None = None
        self._newest_delta_ends: dict[int, float] = {}
        self._news = asyncio.Event()
        self.turn = asyncio.Lock()
        """Held while deltas are added, and while rules are evaluated."""
        self.attempts = 0
        self.sampled: Sample | None = None
        """The last sample of the whole system, if this monitor evaluates the global rules."""

    @property
    def firing(self) -> list[Alert]:
        """The firing events of this monitor's active alerts."""
        return list(self._engine.book.firing.values())

    @property
    def models(self) -> list[str]:
        """The names of the models whose rules are evaluated."""
        return self._engine.models

    async def begin(self, model_names: Iterable[str]) -> None:
        """Read the history of new models. Call it before their deltas are added in PostgreSQL."""
        await self._restart_after_rebalance()
        for model_name in model_names:
            await self._begin(model_name)

    def observe(self, partition: int, deltas: Iterable[MetricsDelta]) -> None:
        """Take deltas into account that were just added in PostgreSQL."""
        now = time.time()
        deltas = list(deltas)
        self._engine.observe(deltas, now)
        if deltas:
            newest = max(delta.window_end.timestamp() for delta in deltas)
            self._newest_delta_ends[partition] = max(
                self._newest_delta_ends.get(partition, 0.0), min(newest, now)
            )

    async def run_evaluation_loop(self) -> None:
        """Evaluate the rules of all models, twice a second. Runs until it is cancelled."""
        while True:
            await asyncio.sleep(EVALUATE_EACH_SECONDS)
            if self._assigned.settled:
                async with self.turn:
                    await self._restart_after_rebalance()
                    await self._evaluate_models()

    async def run_sampling_loop(self, sample: Callable[[], Awaitable[Sample]]) -> None:
        """Take samples and evaluate the global rules, if this monitor owns them. Runs until it is cancelled."""
        failures = FailureLog(NOT_SAMPLED)
        while True:
            await asyncio.sleep(SAMPLE_EACH_SECONDS)
            if not (self._assigned.settled and self._assigned.owns(GLOBAL)):
                continue
            try:
                taken = await sample()
            except Exception as error:  # noqa: BLE001  # it is logged and counted
                failures.failed(error)
                continue
            failures.succeeded()
            self.sampled = taken
            async with self.turn:
                await self._restart_after_rebalance()
                self._engine.global_rules = self._following.global_rules
                await self._record(GLOBAL, self._engine.evaluate_global(taken))

    async def run_publishing_loop(self) -> None:
        """Publish stored events of this monitor's models, whichever monitor stored them. Runs until cancelled."""
        failures = FailureLog(NOT_PUBLISHED)
        while True:
            self._news.clear()
            try:
                if await self._publish_events(failures):
                    failures.succeeded()
            except UnavailableError as error:
                # The events behind it would wait as long.
                failures.failed(error)
            try:
                async with asyncio.timeout(PUBLISH_EACH_SECONDS):
                    await self._news.wait()
            except TimeoutError:
                pass

    async def _publish_events(self, failures: FailureLog) -> bool:
        """Try each event; True when none failed. Raises UnavailableError when Kafka or PostgreSQL is away."""
        all_published = True
        for event in await self._alert_events.unpublished():
            model_name = event.alert.model_name
            if not (self._assigned.settled and self._assigned.owns(model_name)):
                continue
            try:
                await self._publish(event.alert)
                await self._alert_events.mark_published(event)
            except Exception as error:
                if isinstance(error, UnavailableError) and not isinstance(error, RegistryFaultError):
                    raise
                failures.failed(error, model_name=model_name)
                all_published = False
        return all_published

    async def _evaluate_models(self) -> None:
        self._engine.model_rules = self._following.model_rules
        all_evaluated = True
        for model_name in self._engine.models:
            try:
                await self._evaluate_model(model_name)
            except Exception as error:  # noqa: BLE001  # it is logged and counted
                self._failures.failed(error, model_name=model_name)
                all_evaluated = False
            # Each model takes a fraction of a millisecond; other tasks run in between.
            await asyncio.sleep(0)
        if all_evaluated and not self._unrecorded:
            self._failures.succeeded()

    async def _evaluate_model(self, model_name: str) -> None:
        now = self._evaluation_time(model_name)
        if now is None:
            return
        route = self._following.route_of(model_name)
        if route is not None:
            self._engine.update_route(model_name, *route, now)
        await self._record(model_name, self._engine.evaluate(model_name, now))

    def _evaluation_time(self, model_name: str) -> float | None:
        """The Unix time up to which all deltas of a model are read; None when that is unknown.

        Deltas that are not read yet must not look like a model without traffic.
        """
        now = time.time()
        if self._assigned.is_read(model_name):
            return now
        newest = self._newest_delta_ends.get(self._assigned.partition_of(model_name))
        return None if newest is None else min(now, newest + _DELTA_DELAY_SECONDS)

    async def _record(self, model_name: str, alerts: Iterable[Alert]) -> None:
        """Record the events of a model; one that cannot be recorded is tried again with the next ones."""
        waiting = [alert for key, alert in self._unrecorded.items() if key.model_name == model_name]
        for alert in (*waiting, *alerts):
            key = key_of(alert)
            try:
                changed = await self._ask(partial(self._alert_events.record, alert), retry_faults=False)
            except HeadraceError as error:
                self._unrecorded[key] = alert
                self._failures.failed(error, model_name=model_name, rule=alert.rule)
                continue
            self._unrecorded.pop(key, None)
            if changed:
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
                # Another monitor stored a newer state of this alert: read it.
                self._generation = None

    async def _restart_after_rebalance(self) -> None:
        """Start from the state in PostgreSQL when partitions were reassigned: other monitors may have changed it."""
        generation = self._assigned.generation
        if generation == self._generation:
            return
        firing = [
            alert
            for alert in await self._ask(self._alert_events.firing)
            if self._assigned.owns(alert.model_name)
        ]
        self._engine = AlertEngine(firing)
        self._unrecorded.clear()
        self._newest_delta_ends.clear()
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
            try:
                history += await self._ask(read, retry_faults=False)
            except HeadraceError as error:
                # The rules begin with what can be read.
                self._failures.failed(error, model_name=model_name)
        self._engine.begin(model_name, history)

    async def _ask(self, ask: Callable[[], Awaitable[Result]], *, retry_faults: bool = True) -> Result:
        async def counted() -> Result:
            self.attempts += 1
            return await ask()

        return await until_reachable(counted, waiting="alerts", retry_faults=retry_faults)
