"""What the page shows, read from PostgreSQL each second: little, since most of it does not change."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from registry.alert_states import AlertStates
from registry.assignment import Change
from registry.heartbeats import Heartbeats
from registry.history import recent_history
from registry.metric_windows import MetricWindows
from registry.postgres import Database
from registry.snapshot import RegisteredModel
from registry.store import RegistryStore
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

MODELS_SHOWN = 12
"""At once, by one page: more would be read by nobody."""
WHOLE_EACH_WINDOWS = 6


@dataclass(slots=True)
class _Kept:
    """What is known of a model: `read_last` is its last whole window then, `read_whole` that of the last whole reading."""

    model: RegisteredModel
    changes: list[Change]
    points: dict[tuple[int, str], Point] = field(default_factory=dict)
    newest: list[Window] = field(default_factory=list)
    read_last: int = -1
    read_whole: int = -1


class PageReader:
    """All of one process's pages; `read` raises RegistryUnavailableError and SetupError."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._store = RegistryStore(database)
        self._heartbeats = Heartbeats(database)
        self._states = AlertStates(database)
        self._windows = MetricWindows(database)
        self._epoch = -1
        self._model_names: list[str] = []
        self._kept: dict[str, _Kept] = {}

    async def read(self, wanted: Iterable[tuple[str, ...]]) -> Seen:
        """Read what pages need that show these models; one that names none shows the first ones."""
        # First: what changes while the rest is read is read again.
        epoch = await self._store.epoch()
        if epoch != self._epoch:
            self._model_names = await self._store.model_names()
        shown = {name for names in wanted for name in chosen(names, self._model_names)}
        for name in [name for name in self._kept if name not in shown]:
            del self._kept[name]
        for name in shown:
            await self._read_model(name, anew=epoch != self._epoch)
        self._epoch = epoch
        return Seen(
            at=datetime.now(UTC),
            epoch=epoch,
            model_names=self._model_names,
            models={
                name: SeenModel(kept.model, kept.changes, kept.points, kept.newest)
                for name, kept in self._kept.items()
            },
            alerts=await self._states.firing(),
            heartbeats=await self._heartbeats.all(),
        )

    async def _read_model(self, name: str, *, anew: bool) -> None:
        kept = self._kept.get(name)
        if kept is None or anew:
            model = await self._store.find(name)
            if model is None:
                self._kept.pop(name, None)
                return
            changes = await recent_history(self._database, name, CHANGES_MARKED)
            if kept is None:
                kept = self._kept[name] = _Kept(model, changes)
            kept.model, kept.changes = model, changes
        await self._read_windows(name, kept)

    async def _read_windows(self, name: str, kept: _Kept) -> None:
        """The newest windows each second, and all of them now and then, as some may come late."""
        now = datetime.now(UTC)
        current, last = window_number(now), last_whole_window(now)
        oldest = last - SPAN_SECONDS // WINDOW_SECONDS + 1
        whole = last - kept.read_whole >= WHOLE_EACH_WINDOWS
        first = oldest if whole else kept.read_last - 1
        windows = await self._windows.read(name, WINDOW_SECONDS, _start(first), _start(current + 2))
        kept.points = {key: point for key, point in kept.points.items() if oldest <= key[0] < first} | {
            (window_number(window.start), window.model_version): point_of(window) for window in windows
        }
        kept.newest = [window for window in windows if window_number(window.start) >= last]
        kept.read_last = last
        if whole:
            kept.read_whole = last


def chosen(names: tuple[str, ...], model_names: list[str]) -> tuple[str, ...]:
    """PURE. The models that a page shows: those it names, else the first ones."""
    if not names:
        return tuple(model_names[:MODELS_SHOWN])
    known = set(model_names)
    return tuple(name for name in names if name in known)[:MODELS_SHOWN]


def _start(number: int) -> datetime:
    return datetime.fromtimestamp(number * WINDOW_SECONDS, UTC)
