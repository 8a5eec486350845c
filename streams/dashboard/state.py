"""PURE. The JSON document that the page shows, computed from what was read from PostgreSQL."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from registry.assignment import Change, differences
from registry.routing import weights_of
from registry.snapshot import RegisteredModel
from registry.worker_heartbeat import WorkerHeartbeat
from schemas.events import Alert, JsonObject
from schemas.models import Status
from schemas.windows import Totals, Window, total
from streams.dashboard.worker_list import reasons_of, served_percents, workers_of
from streams.monitoring.alert_text import format_alert

WINDOW_SECONDS = 10
SPAN_SECONDS = 900
# A delta covers a second, and takes a moment to reach PostgreSQL.
LATE_SECONDS = 2.0
CHANGES_LISTED = 4
CHANGES_MARKED = 40
STAGING_SHOWN = 4
COLOURS = 8

_SEVERITIES = {"critical": 0, "warning": 1}


@dataclass(frozen=True, slots=True)
class Point:
    """One version in one window; None where nothing was measured."""

    requests_per_second: float
    p50_ms: float | None
    p99_ms: float | None
    cache_hit_share: float | None
    error_share: float | None
    errors: Mapping[str, int]
    """Counts by code, with the requests that the production version answered instead."""


LINES = ("requests_per_second", "p50_ms", "p99_ms", "cache_hit_share", "error_share")
Points = Mapping[tuple[int, str], Point]
"""By the window's number (its start in Unix seconds divided by its length) and the version.

The version "" has the requests that reached no version.
"""


@dataclass(frozen=True, slots=True)
class SeenModel:
    """A model, its recent changes, and its metrics; `newest` has the last windows in full."""

    model: RegisteredModel
    changes: Sequence[Change]
    points: Points
    newest: Sequence[Window]


@dataclass(frozen=True, slots=True)
class Seen:
    """Everything that was read at one time."""

    at: datetime
    epoch: int
    model_names: Sequence[str]
    models: Mapping[str, SeenModel]
    alerts: Sequence[Alert]
    heartbeats: Sequence[tuple[WorkerHeartbeat, float]]


def page_state(seen: Seen, names: Iterable[str], *, may_promote: bool) -> JsonObject:
    """The document for a page that shows the models `names`."""
    return {
        "at_ms": _milliseconds(seen.at),
        "epoch": seen.epoch,
        "window_ms": WINDOW_SECONDS * 1000,
        "span_ms": SPAN_SECONDS * 1000,
        "may_promote": may_promote,
        "model_names": list(seen.model_names),
        "models": [_model(seen.models[name], seen) for name in names if name in seen.models],
        "alerts": [_alert(alert) for alert in sorted(seen.alerts, key=_urgency)],
        "workers": workers_of(seen.heartbeats, seen.epoch),
        "reasons": reasons_of(seen.heartbeats),
    }


def point_of(window: Window) -> Point:
    """The point of a window in the charts."""
    return _point(window.totals, window.totals.requests / window.resolution_seconds)


def window_number(at: datetime) -> int:
    """The number of the window that contains a time."""
    return int(at.timestamp()) // WINDOW_SECONDS


def last_whole_window(at: datetime) -> int:
    """The number of the newest window that no delta is added to any more."""
    return int((at.timestamp() - LATE_SECONDS) // WINDOW_SECONDS) - 1


def _model(seen: SeenModel, everything: Seen) -> JsonObject:
    model, at = seen.model, everything.at
    last = last_whole_window(at)
    numbers = range(last - SPAN_SECONDS // WINDOW_SECONDS + 1, last + 1)
    known = {number for number, _ in seen.points}
    counted = {version for number, version in seen.points if number in numbers}
    weights = {version: float(weight) for version, weight in weights_of(model.route).items()}
    served = served_percents(model, seen.changes, everything.heartbeats)
    now = _now(seen.newest, last)
    return {
        "model_name": model.model_name,
        "revision": model.revision,
        "rollback": _rollback(model),
        "first_ms": (numbers[0] + 1) * WINDOW_SECONDS * 1000,
        "versions": [
            {
                "version": version,
                "status": str(model.versions[version].status) if version in model.versions else "",
                "percent": weights.get(version, 0.0),
                "served_percent": served.get(version, 0.0),
                "colour": _colour(model, version),
                "now": now.get(version),
                "errors": _errors(seen.points, version),
                "lines": _lines(seen.points, numbers, version, known),
            }
            for version in _shown(model, counted, served.keys())
        ],
        "changes": [_change(change) for change in _marked(seen.changes, at)],
    }


def _shown(model: RegisteredModel, counted: set[str], served: AbstractSet[str]) -> list[str]:
    """Versions that have, may get, or had traffic, in the order of registration."""
    staging = [name for name, each in model.versions.items() if each.status is Status.STAGING]
    wanted = {*staging[-STAGING_SHOWN:], *counted, *served, model.previous_production}
    shown = [
        name
        for name, each in model.versions.items()
        if each.status in (Status.PRODUCTION, Status.CANARY) or name in wanted
    ]
    return [*shown, *sorted(counted - model.versions.keys())]


def _colour(model: RegisteredModel, version: str) -> int:
    """A colour by the order of registration, so that a version keeps it."""
    names = list(model.versions)
    return names.index(version) % COLOURS if version in names else COLOURS


def _rollback(model: RegisteredModel) -> JsonObject | None:
    """What a rollback would do; None when it would be rejected."""
    canaries = [name for name, each in model.versions.items() if each.status is Status.CANARY]
    if canaries:
        return {"stops": canaries}
    return None if model.previous_production is None else {"returns_to": model.previous_production}


def _lines(
    points: Points, numbers: range, version: str, known: AbstractSet[int]
) -> dict[str, list[float | None]]:
    found = [points.get((number, version)) for number in numbers]
    lines = {name: [getattr(point, name) if point else None for point in found] for name in LINES}
    # In a window that has other versions, a version without counts had no requests. Without any counts it is unknown.
    lines["requests_per_second"] = [
        point.requests_per_second if point else 0.0 if number in known else None
        for number, point in zip(numbers, found, strict=True)
    ]
    return lines


def _errors(points: Points, version: str) -> dict[str, int]:
    """The count of each error code over the span."""
    summed: Counter[str] = Counter()
    for (_, name), point in points.items():
        if name == version:
            summed.update(point.errors)
    return dict(sorted(summed.items()))


def _now(newest: Sequence[Window], last: int) -> dict[str, JsonObject]:
    """Each version's current figures: the rate of the last complete window; the others include newer deltas."""
    parts: dict[str, list[Totals]] = defaultdict(list)
    requests: Counter[str] = Counter()
    for window in newest:
        number = window_number(window.start)
        if number >= last:
            parts[window.model_version].append(window.totals)
        if number == last:
            requests[window.model_version] += window.totals.requests
    figures = {
        version: _point(total(each), requests[version] / WINDOW_SECONDS) for version, each in parts.items()
    }
    return {version: {name: getattr(point, name) for name in LINES} for version, point in figures.items()}


def _point(totals: Totals, requests_per_second: float) -> Point:
    measured = totals.latency_ms.count > 0
    return Point(
        requests_per_second=requests_per_second,
        p50_ms=_short(totals.latency_quantile_ms(0.5)) if measured else None,
        p99_ms=_short(totals.latency_quantile_ms(0.99)) if measured else None,
        cache_hit_share=_short(totals.cache_hit_share),
        error_share=_short(totals.error_share) if totals.asked else None,
        errors=Counter(totals.errors) + Counter(totals.fallbacks),
    )


def _marked(changes: Sequence[Change], at: datetime) -> list[Change]:
    """The newest changes first: at least a few, and all on the time axis up to a limit."""
    since = at - timedelta(seconds=SPAN_SECONDS)
    newest = list(reversed(changes))[:CHANGES_MARKED]
    return [
        change for place, change in enumerate(newest) if place < CHANGES_LISTED or change.applied_at >= since
    ]


def _change(change: Change) -> JsonObject:
    return {
        "revision": change.revision,
        "at_ms": _milliseconds(change.applied_at),
        "action": str(change.action),
        "what": ", ".join(differences(change.before, change.after)),
        "actor": change.actor,
        "reason": change.reason,
    }


def _alert(alert: Alert) -> JsonObject:
    return {
        "alert_id": alert.alert_id,
        "model_name": alert.model_name,
        "model_version": alert.model_version,
        "rule": alert.rule,
        "severity": alert.severity,
        "text": format_alert(alert),
        "since_ms": _milliseconds(alert.at),
    }


def _urgency(alert: Alert) -> tuple[Any, ...]:
    return _SEVERITIES.get(alert.severity, 2), alert.at, alert.alert_id


def _milliseconds(at: datetime) -> int:
    return int(at.timestamp() * 1000)


def _short(value: float | None) -> float | None:
    """Rounded to four digits: more cannot be seen, and the document is sent each second."""
    if value is None or value == 0.0:
        return value
    return round(value, 3 - math.floor(math.log10(abs(value))))
