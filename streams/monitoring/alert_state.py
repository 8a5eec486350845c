"""PURE. From what rules see to alerts: one event when a condition fires and one when it resolves.

A condition must hold for a while to fire, and be clear for a while, by a lower threshold, to resolve. What
cannot be judged any more, as a version that takes no traffic, resolves after a longer while. Times are Unix
seconds.
"""

import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from schemas.alert_rules import GlobalRules, ModelRules, Rule
from schemas.events import Alert
from streams.monitoring.evaluation import AlertName, Evaluation

UNJUDGED_SECONDS = 300.0


class AlertBook:
    """What fires, and since when what does not fire was seen."""

    def __init__(self, firing: Iterable[Alert] = ()) -> None:
        self.firing: dict[AlertName, Alert] = {name_of(alert): alert for alert in firing}
        self._breached_since: dict[AlertName, float] = {}
        self._cleared_since: dict[AlertName, float] = {}
        self._unjudged_since: dict[AlertName, float] = {}

    def advance(
        self,
        model_name: str,
        evaluations: Mapping[AlertName, Evaluation],
        rules: ModelRules | GlobalRules,
        now: float,
    ) -> list[Alert]:
        """The events of one model by its evaluations, which are all that could be judged now."""
        events = []
        for name, evaluation in evaluations.items():
            self._unjudged_since.pop(name, None)
            rule: Rule = getattr(rules, name[2])
            if name in self.firing:
                events += self._firing(name, evaluation, rule, now)
            elif not evaluation.breached:
                self._breached_since.pop(name, None)
            elif now - self._breached_since.setdefault(name, now) >= rule.hold_seconds:
                del self._breached_since[name]
                events.append(self._fire(name, evaluation, rule, now))
        for name in [name for name in self.firing if name[0] == model_name and name not in evaluations]:
            known: Rule | None = getattr(rules, name[2], None)
            since = self._unjudged_since.setdefault(name, now)
            self._cleared_since.pop(name, None)
            if known is None or not known.enabled or now - since >= UNJUDGED_SECONDS:
                events.append(self._resolve(name, None, now))
        for name in [
            name for name in self._breached_since if name[0] == model_name and name not in evaluations
        ]:
            del self._breached_since[name]
        return events

    def forget(self, alert: Alert) -> None:
        """Take back an event that did not come to be, because another monitor was there first."""
        self.firing.pop(name_of(alert), None)

    def _firing(self, name: AlertName, evaluation: Evaluation, rule: Rule, now: float) -> list[Alert]:
        if not evaluation.cleared:
            self._cleared_since.pop(name, None)
        elif now - self._cleared_since.setdefault(name, now) >= rule.clear_seconds:
            return [self._resolve(name, evaluation, now)]
        return []

    def _fire(self, name: AlertName, evaluation: Evaluation, rule: Rule, now: float) -> Alert:
        model_name, model_version, rule_name = name
        alert = Alert(
            alert_id=str(uuid.uuid4()),
            model_name=model_name,
            model_version=model_version,
            rule=rule_name,
            severity=rule.severity,
            state="firing",
            value=evaluation.value,
            threshold=evaluation.threshold,
            baseline=evaluation.baseline,
            window_seconds=evaluation.window_seconds,
            at=datetime.fromtimestamp(now, UTC),
        )
        self.firing[name] = alert
        return alert

    def _resolve(self, name: AlertName, evaluation: Evaluation | None, now: float) -> Alert:
        fired = self.firing.pop(name)
        self._cleared_since.pop(name, None)
        self._unjudged_since.pop(name, None)
        changes = {"state": "resolved", "at": datetime.fromtimestamp(now, UTC)}
        if evaluation is not None:
            changes["value"] = evaluation.value
        return fired.model_copy(update=changes)


def name_of(alert: Alert) -> AlertName:
    """Of which there is one at a time."""
    return alert.model_name, alert.model_version, alert.rule
