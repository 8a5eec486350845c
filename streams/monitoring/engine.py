"""PURE. All models of one monitor: deltas in, alerts out."""

from collections.abc import Iterable, Mapping

from schemas.alert_rules import GLOBAL, GlobalRules, ModelRules
from schemas.events import Alert, MetricsDelta
from schemas.windows import Window
from streams.monitoring.alert_state import AlertBook
from streams.monitoring.evaluation import ModelView, evaluate
from streams.monitoring.global_rules import GlobalView, Sample
from streams.monitoring.series import VersionSeries

_DEFAULTS = ModelRules()
# A version without weight that nothing is asked of; what fires of it resolves.
_OVER_SECONDS = 3600.0


class AlertEngine:
    """Holds what was seen of each model, and what fires. Times are Unix seconds.

    Requests of models that nobody knows count under the model "", which has no rules: whoever may send
    requests can make such names up.
    """

    def __init__(self, firing: Iterable[Alert] = ()) -> None:
        self.book = AlertBook(firing)
        self.model_rules: Mapping[str, ModelRules] = {}
        self.global_rules = GlobalRules()
        self._views: dict[str, ModelView] = {}
        self._global = GlobalView()

    def knows(self, model_name: str) -> bool:
        """Whether this model is watched, with its history."""
        return model_name in self._views

    @property
    def models(self) -> list[str]:
        return list(self._views)

    def begin(self, model_name: str, history: Iterable[Window]) -> None:
        """Watch a model from now on; `history` are its windows of 10 s and 1 min, in their order."""
        view = self._views[model_name] = ModelView(model_name)
        for window in history:
            _series(view, window.model_version).restore(window)

    def observe(self, deltas: Iterable[MetricsDelta], now: float) -> None:
        """Add what was counted just now, each delta once, of models that are watched."""
        for delta in deltas:
            if (view := self._views.get(delta.model_name)) is not None:
                _series(view, delta.model_version).add(delta, now)

    def route(
        self, model_name: str, weights: Mapping[str, float], production: str | None, now: float
    ) -> None:
        """Take over a model's route; `weights` are shares from 0 to 1."""
        self._views[model_name].route(weights, production, now)

    def evaluate(self, model_name: str, now: float) -> list[Alert]:
        """What fires or resolves of a model now."""
        view = self._views[model_name]
        for version in [version for version in view.series if _is_over(view, version, now)]:
            del view.series[version]
        rules = self.model_rules.get(model_name, _DEFAULTS)
        evaluations = evaluate(view, rules, self.book.firing, now)
        return self.book.advance(model_name, evaluations, rules, now)

    def evaluate_global(self, sample: Sample) -> list[Alert]:
        """What fires or resolves of the installation by one more sample."""
        self._global.add(sample)
        evaluations = self._global.evaluate(self.global_rules)
        return self.book.advance(GLOBAL, evaluations, self.global_rules, sample.at)


def _is_over(view: ModelView, version: str, now: float) -> bool:
    last = view.series[version].last_asked_at
    return last is not None and now - last > _OVER_SECONDS and not view.weights.get(version)


def _series(view: ModelView, version: str) -> VersionSeries:
    found = view.series.get(version)
    if found is None:
        found = view.series[version] = VersionSeries()
    return found
