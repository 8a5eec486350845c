"""PURE. All models of one monitor: metrics deltas and samples in, alert events out."""

from collections.abc import Iterable, Mapping

from schemas.alert_rules import GLOBAL, GlobalRules, ModelRules
from schemas.events import Alert, MetricsDelta
from schemas.windows import Window
from streams.monitoring.alert_state import AlertBook
from streams.monitoring.rules.global_rules import GlobalView, Sample
from streams.monitoring.rules.model_rules import evaluate
from streams.monitoring.rules.model_view import ModelView
from streams.monitoring.series import VersionSeries

_DEFAULTS = ModelRules()
# The metrics of a version without weight and without requests for this long are dropped; its alerts resolve.
_DROP_SECONDS = 3600.0


class AlertEngine:
    """Holds the recent metrics of each model, and the state of its alerts. Times are Unix seconds.

    Requests for unregistered models count under the model name "", which is never watched: any sender can make
    such names up.
    """

    def __init__(self, firing: Iterable[Alert] = ()) -> None:
        self.book = AlertBook(firing)
        self.model_rules: Mapping[str, ModelRules] = {}
        self.global_rules = GlobalRules()
        self._views: dict[str, ModelView] = {}
        self._global = GlobalView()

    @property
    def models(self) -> list[str]:
        """The names of the models that are watched."""
        return list(self._views)

    def begin(self, model_name: str, history: Iterable[Window]) -> None:
        """Start to watch a model; `history` has its windows of 10 s and 1 min, each in the order of time."""
        view = self._views[model_name] = ModelView(model_name)
        for window in history:
            _series(view, window.model_version).restore(window)

    def observe(self, deltas: Iterable[MetricsDelta], now: float) -> None:
        """Add new deltas; those of models that are not watched are ignored. Each delta is passed once."""
        for delta in deltas:
            if (view := self._views.get(delta.model_name)) is not None:
                _series(view, delta.model_version).add(delta, now)

    def update_route(
        self,
        model_name: str,
        weights: Mapping[str, float],
        production: str | None,
        rollback_target: str | None,
        now: float,
    ) -> None:
        """Replace the route of a model; `weights` are shares from 0 to 1."""
        self._views[model_name].update_route(weights, production, rollback_target, now)

    def evaluate(self, model_name: str, now: float) -> list[Alert]:
        """Evaluate the rules of a model; returns the events."""
        view = self._views[model_name]
        for version in [version for version in view.series if _is_over(view, version, now)]:
            del view.series[version]
        rules = self.model_rules.get(model_name, _DEFAULTS)
        evaluations = evaluate(view, rules, self.book.firing, now)
        return self.book.update(model_name, evaluations, rules, now)

    def evaluate_global(self, sample: Sample) -> list[Alert]:
        """Add a sample and evaluate the global rules; returns the events."""
        self._global.add(sample)
        evaluations = self._global.evaluate(self.global_rules)
        return self.book.update(GLOBAL, evaluations, self.global_rules, sample.at)


def _is_over(view: ModelView, version: str, now: float) -> bool:
    last = view.series[version].last_asked_at
    return last is not None and now - last > _DROP_SECONDS and not view.weights.get(version)


def _series(view: ModelView, version: str) -> VersionSeries:
    found = view.series.get(version)
    if found is None:
        found = view.series[version] = VersionSeries(version)
    return found
