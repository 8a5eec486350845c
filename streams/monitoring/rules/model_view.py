"""PURE. What the rules of a model read: the recent metrics of each version, and the route."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from streams.monitoring.series import VersionSeries

# A model has steady traffic when this many of the last 60 minutes had requests. A nightly batch does not.
_STEADY_MINUTES = 50
_HOUR_SECONDS = 3600.0


@dataclass(slots=True)
class ModelView:
    """The recent metrics of a model, by version, and its route.

    The version "" holds requests that reached no version. `weights` are shares from 0 to 1; `weights_since` has
    the Unix time at which each version was first seen with its current weight.
    """

    model_name: str
    series: dict[str, VersionSeries] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)
    weights_since: dict[str, float] = field(default_factory=dict)
    production: str | None = None
    rollback_target: str | None = None

    def update_route(
        self,
        weights: Mapping[str, float],
        production: str | None,
        rollback_target: str | None,
        now: float,
    ) -> None:
        """Replace the route, and note the time for each version whose weight changed."""
        for version in {*weights, *self.weights}:
            if weights.get(version) != self.weights.get(version) or version not in self.weights_since:
                self.weights_since[version] = now
        self.weights = weights
        self.production = production
        self.rollback_target = rollback_target

    def requests_per_second(self, before: float) -> float:
        """The model's request rate before a Unix time: the lower one of the last 10 minutes' and the last hour's."""
        minutes = self._requests_by_minute(before)
        return min(sum(minutes[-10:]) / 600.0, sum(minutes) / _HOUR_SECONDS)

    def has_steady_traffic(self, before: float) -> bool:
        """True when nearly every minute of the hour before a Unix time had requests."""
        return sum(1 for requests in self._requests_by_minute(before) if requests) >= _STEADY_MINUTES

    def _requests_by_minute(self, before: float) -> list[int]:
        each = [series.requests_by_minute(before - _HOUR_SECONDS, before) for series in self.series.values()]
        return [sum(minute) for minute in zip(*each, strict=True)]
