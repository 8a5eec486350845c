"""PURE. The state machine of an alert, and the book of all alerts of one monitor.

A rule must be breached for `hold_seconds` before its alert fires, and cleared for `clear_seconds` before
the alert resolves. An alert whose rule can no longer be evaluated (a version without traffic) resolves after
`UNKNOWN_SECONDS`. Alerts are not muted here: Alertmanager silences them. Times are Unix seconds.
"""

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from schemas.alert_rules import GlobalRules, ModelRules, Rule, scope_of
from schemas.events import Alert
from streams.monitoring.rules.evaluation import AlertKey, Evaluation

UNKNOWN_SECONDS = 300.0


class Phase(StrEnum):
    """The phase of an alert. Only `FIRING`, `RESOLVING` and `UNKNOWN` count as firing."""

    INACTIVE = "inactive"
    PENDING = "pending"
    """Breached, but not yet for `hold_seconds`."""
    FIRING = "firing"
    RESOLVING = "resolving"
    """Cleared, but not yet for `clear_seconds`."""
    UNKNOWN = "unknown"
    """Fires, and its rule cannot be evaluated."""


class Observation(StrEnum):
    """One evaluation of a rule, as the state machine takes it."""

    BREACHED = "breached"
    BETWEEN = "between"
    """Neither breached nor cleared."""
    CLEARED = "cleared"
    MISSING = "missing"
    """Too little data to evaluate the rule."""
    DISABLED = "disabled"
    """The rule is switched off, or this release does not have it."""


@dataclass(frozen=True, slots=True)
class AlertState:
    """A phase, and the Unix time at which it began."""

    phase: Phase
    since: float

    @property
    def fires(self) -> bool:
        return self.phase in _FIRING_PHASES


_FIRING_PHASES = frozenset({Phase.FIRING, Phase.RESOLVING, Phase.UNKNOWN})
INACTIVE = AlertState(Phase.INACTIVE, 0.0)


def advance(
    state: AlertState, seen: Observation, now: float, *, hold_seconds: float, clear_seconds: float
) -> AlertState:
    """The next state of an alert; `since` is kept while the phase stays.

    | seen | does not fire: inactive, pending | fires: firing, resolving, unknown |
    |---|---|---|
    | breached | pending; after `hold_seconds` firing | firing |
    | between | inactive | firing |
    | cleared | inactive | resolving; after `clear_seconds` inactive |
    | missing | inactive | unknown; after `UNKNOWN_SECONDS` inactive |
    | disabled | inactive | inactive |
    """
    match seen:
        case Observation.BREACHED if not state.fires:
            pending = _enter(state, Phase.PENDING, now)
            return pending if now - pending.since < hold_seconds else AlertState(Phase.FIRING, now)
        case Observation.BREACHED | Observation.BETWEEN if state.fires:
            return _enter(state, Phase.FIRING, now)
        case Observation.CLEARED if state.fires:
            resolving = _enter(state, Phase.RESOLVING, now)
            return resolving if now - resolving.since < clear_seconds else INACTIVE
        case Observation.MISSING if state.fires:
            unknown = _enter(state, Phase.UNKNOWN, now)
            return unknown if now - unknown.since < UNKNOWN_SECONDS else INACTIVE
        case _:
            return INACTIVE


def _enter(state: AlertState, phase: Phase, now: float) -> AlertState:
    return state if state.phase is phase else AlertState(phase, now)


class AlertBook:
    """The state of every alert that is not inactive, and the event by which each firing one began."""

    def __init__(self, firing: Iterable[Alert] = ()) -> None:
        self.firing: dict[AlertKey, Alert] = {key_of(alert): alert for alert in firing}
        self._states = {
            key: AlertState(Phase.FIRING, alert.at.timestamp()) for key, alert in self.firing.items()
        }

    def update(
        self,
        model_name: str,
        evaluations: Mapping[AlertKey, Evaluation],
        rules: ModelRules | GlobalRules,
        now: float,
    ) -> list[Alert]:
        """Advance the alerts of one model, or the global ones; returns the events: firing or resolved.

        `evaluations` has every rule that could be evaluated at `now`.
        """
        open_keys = [key for key in self._states if key.model_name == model_name and key not in evaluations]
        events = (
            self._update(key, evaluations.get(key), getattr(rules, key.rule, None), now)
            for key in (*evaluations, *open_keys)
        )
        return [event for event in events if event is not None]

    def _update(
        self, key: AlertKey, evaluation: Evaluation | None, rule: Rule | None, now: float
    ) -> Alert | None:
        before = self._states.get(key, INACTIVE)
        after = INACTIVE
        if rule is not None:
            seen = _observation(evaluation, rule)
            after = advance(
                before, seen, now, hold_seconds=rule.hold_seconds, clear_seconds=rule.clear_seconds
            )
        if after is INACTIVE:
            self._states.pop(key, None)
        else:
            self._states[key] = after
        if after.fires and not before.fires:
            assert rule is not None
            assert evaluation is not None
            self.firing[key] = _firing_event(key, evaluation, rule, now)
            return self.firing[key]
        if before.fires and not after.fires:
            return _resolved_event(self.firing.pop(key), evaluation, now)
        return None


def key_of(alert: Alert) -> AlertKey:
    """The key of the alert that an event belongs to."""
    return AlertKey(alert.model_name, alert.model_version, alert.rule)


def _observation(evaluation: Evaluation | None, rule: Rule) -> Observation:
    if not rule.enabled:
        return Observation.DISABLED
    if evaluation is None:
        return Observation.MISSING
    if evaluation.breached:
        return Observation.BREACHED
    return Observation.CLEARED if evaluation.cleared else Observation.BETWEEN


def _firing_event(key: AlertKey, evaluation: Evaluation, rule: Rule, now: float) -> Alert:
    return Alert(
        alert_id=str(uuid.uuid4()),
        scope=scope_of(key.model_name),
        model_name=key.model_name,
        model_version=key.model_version,
        rule=key.rule,
        severity=rule.severity,
        state="firing",
        value=evaluation.value,
        threshold=evaluation.threshold,
        baseline=evaluation.baseline,
        window_seconds=evaluation.window_seconds,
        codes=dict(evaluation.causes.codes),
        workers=list(evaluation.causes.workers),
        at=datetime.fromtimestamp(now, UTC),
    )


def _resolved_event(fired: Alert, evaluation: Evaluation | None, now: float) -> Alert:
    """The firing event with the time of the resolution, and the last value where there is one."""
    changes = {"state": "resolved", "at": datetime.fromtimestamp(now, UTC)}
    if evaluation is not None:
        changes["value"] = evaluation.value
    return fired.model_copy(update=changes)
