"""Reads from PostgreSQL what the page shows. It is read each second, so what has not changed is data."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from registry.alert_events import AlertEvents
from registry.assignment import Change
from registry.follower import EpochFollower
from registry.heartbeats import Heartbeats
from registry.history import recent_history
from registry.metric_windows import MetricWindows
from registry.postgres import Database
from registry.snapshot import RegisteredModel
from registry.store import RegistryStore
from schemas.errors import RegistryFaultError, UnavailableError
from schemas.windows import Window
from streams.dashboard.state import (
    CHANGES_MARKED,
    SPAN_SECONDS,
    WINDOW_SECONDS,
    Point,
    Seen,
    SeenModel,
    last_whole_window,
    point_of,
    window_number,
)
from streams.process.background import FailureLog

MODELS_SHOWN = 12
"""The most models that one page shows."""
ALL_WINDOWS_EACH = 6
"""How often all windows of a model are read, in windows."""


@dataclass(slots=True)
class _ModelData:
    """What was read of a model.

    `last_window` is the number of the last complete window at the last reading; `all_read_at` is the one at the last
    reading of all windows.
    """

    model: RegisteredModel
    changes: list[Change]
    points: dict[tuple[int, str], Point] = field(default_factory=dict)
    newest: list[Window] = field(default_factory=list)
    last_window: int = -1
    all_read_at: int = -1


class PageReader:
    """Reads for all pages of one process."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._store = RegistryStore(database)
        self._heartbeats = Heartbeats(database)
        self._alert_events = AlertEvents(database)
        self._windows = MetricWindows(database)
        self._follower = EpochFollower(self._store.epoch, self._store.revisions)
        self._revisions: dict[str, int] = {}
        self._model_names: list[str] = []
        self._data: dict[str, _ModelData] = {}
        self._failures = FailureLog("model not read for the live page")

    async def read(self, wanted: Iterable[tuple[str, ...]]) -> Seen:
        """Read what pages need that show these models. A page that names no model shows the first ones.

        A model that cannot be read is logged, counted and left out.

        Raises RegistryUnavailableError and SetupError.
        """
        # The epoch first: a change during the other readings is then seen by the next poll.
        await self._follow()
        shown = {name for names in wanted for name in chosen(names, self._model_names)}
        self._data = {name: data for name, data in self._data.items() if name in shown}
        all_read = True
        for name in shown:
            try:
                await self._read_model(name)
            except Exception as error:
                if isinstance(error, UnavailableError) and not isinstance(error, RegistryFaultError):
                    raise
                self._failures.failed(error, model_name=name)
                self._data.pop(name, None)
                all_read = False
        if all_read:
            self._failures.succeeded()
        return Seen(
            at=datetime.now(UTC),
            epoch=self._follower.epoch,
            model_names=self._model_names,
            models={
                name: SeenModel(data.model, data.changes, data.points, data.newest)
                for name, data in self._data.items()
            },
            alerts=await self._alert_events.firing(),
            heartbeats=await self._heartbeats.all(),
        )

    async def _follow(self) -> None:
        changes = await self._follower.poll()
        if changes is None:
            return
        self._revisions = changes.merged(self._revisions, changes.models)
        self._model_names = sorted(self._revisions)
        if changes.is_complete:
            # After a restore the same revision may be another change.
            self._data.clear()

    async def _read_model(self, name: str) -> None:
        data = self._data.get(name)
        if data is None or data.model.revision < self._revisions[name]:
            model = await self._store.find(name)
            if model is None:
                # The registry is being restored; the next poll sees it.
                self._data.pop(name, None)
                return
            changes = await recent_history(self._database, name, CHANGES_MARKED)
            if data is None:
                data = self._data[name] = _ModelData(model, changes)
            data.model, data.changes = model, changes
        await self._read_windows(name, data)

    async def _read_windows(self, name: str, data: _ModelData) -> None:
        """Read the newest windows, and each `ALL_WINDOWS_EACH` windows all of them, because some may come late."""
        now = datetime.now(UTC)
        current, last = window_number(now), last_whole_window(now)
        oldest = last - SPAN_SECONDS // WINDOW_SECONDS + 1
        read_all = last - data.all_read_at >= ALL_WINDOWS_EACH
        first = oldest if read_all else data.last_window - 1
        windows = await self._windows.read(name, WINDOW_SECONDS, _start(first), _start(current + 2))
        data.points = {key: point for key, point in data.points.items() if oldest <= key[0] < first} | {
            (window_number(window.start), window.model_version): point_of(window) for window in windows
        }
        data.newest = [window for window in windows if window_number(window.start) >= last]
        data.last_window = last
        if read_all:
            data.all_read_at = last


def chosen(names: tuple[str, ...], model_names: list[str]) -> tuple[str, ...]:
    """PURE. The models that a page shows: those that it names and that exist, else the first ones."""
    if not names:
        return tuple(model_names[:MODELS_SHOWN])
    known = set(model_names)
    return tuple(name for name in names if name in known)[:MODELS_SHOWN]


def _start(number: int) -> datetime:
    return datetime.fromtimestamp(number * WINDOW_SECONDS, UTC)
