"""Alert rules: the rules of a model, those of the whole system, and their defaults.

A file of rules holds what differs from the defaults. An unknown name is an error, so that a misspelt threshold
is not ignored. `docs/monitoring.md` gives the reason for each default.
"""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from schemas.bounds import MAX_INT64

Severity = Literal["critical", "warning", "info"]
Seconds = Annotated[float, Field(gt=0, le=86_400)]
Factor = Annotated[float, Field(gt=1, le=1000)]
Share = Annotated[float, Field(gt=0, lt=1)]
Times = Annotated[int, Field(ge=1, le=MAX_INT64)]
# The lengths of the windows that streams/monitoring/series.py keeps of each version.
WindowSeconds = Literal[1, 10, 60, 300]


class _Strict(BaseModel):
    # Defaults are validated too: most installations use them.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, validate_default=True)


class Rule(_Strict):
    """The fields of every rule.

    An alert fires when its condition is breached for `hold_seconds`. It resolves when the condition is cleared,
    by a lower threshold than that of firing, for `clear_seconds`.
    """

    enabled: bool = True
    severity: Severity = "warning"
    hold_seconds: Annotated[float, Field(ge=0, le=86_400)] = 0.0
    clear_seconds: Seconds = 60.0


class Burn(_Strict):
    """Fires when errors spend the budget `factor` times as fast as the objective allows, in both windows."""

    long_seconds: Annotated[float, Field(ge=10, le=21_600)]
    short_seconds: Annotated[float, Field(ge=5, le=21_600)]
    factor: Factor

    @model_validator(mode="after")
    def _short_is_shorter(self) -> Self:
        if self.short_seconds >= self.long_seconds:
            raise ValueError("short_seconds must be less than long_seconds")
        return self


class ErrorRate(Rule):
    """Errors that are not the sender's, and requests that production answered instead, against an objective over 30 days."""

    severity: Severity = "critical"
    objective_percent: Annotated[float, Field(ge=50, lt=100)] = 99.5
    min_requests: Times = 100
    burns: Annotated[tuple[Burn, ...], Field(min_length=1, strict=False)] = (
        Burn(long_seconds=30, short_seconds=5, factor=40),
        Burn(long_seconds=3600, short_seconds=300, factor=14.4),
        Burn(long_seconds=21_600, short_seconds=1800, factor=6),
    )

    @model_validator(mode="after")
    def _can_be_reached(self) -> Self:
        budget = self.budget
        if any(burn.factor * budget >= 1 for burn in self.burns):
            raise ValueError(
                f"with an objective of {self.objective_percent:g}% a factor must be less than {1 / budget:g}: "
                "there are never more errors than requests"
            )
        return self

    @property
    def budget(self) -> float:
        """The share of requests that may fail."""
        return 1.0 - self.objective_percent / 100.0


class InputFaults(Rule):
    """Requests that failed for their input: either a sender's inputs are bad, or the model cannot predict them."""

    percent: Annotated[float, Field(gt=0, lt=100)] = 2.0
    window_seconds: Annotated[float, Field(ge=10, le=21_600)] = 300.0
    min_requests: Times = 100


class RefusedRequests(Rule):
    """Requests that failed for what their sender sent: INVALID_INPUT, INVALID_REQUEST, DEADLINE_EXCEEDED."""

    percent: Annotated[float, Field(gt=0, lt=100)] = 5.0
    window_seconds: Annotated[float, Field(ge=10, le=21_600)] = 300.0
    min_requests: Times = 100


class StricterInput(Rule):
    """A version with weight refuses inputs that production takes: INVALID_INPUT, `percent` points above production."""

    severity: Severity = "critical"
    percent: Annotated[float, Field(gt=0, lt=100)] = 5.0
    windows_seconds: Annotated[
        tuple[Annotated[float, Field(ge=10, le=21_600)], ...], Field(min_length=1, strict=False)
    ] = (30.0, 300.0, 3600.0)
    min_requests: Times = 100


class LatencyStep(_Strict):
    """p99 is too high when it exceeds `factor` times the baseline in three consecutive windows."""

    window_seconds: WindowSeconds
    factor: Factor


LatencySteps = Annotated[tuple[LatencyStep, ...], Field(min_length=1, strict=False)]


class LatencyBaseline(Rule):
    """p99 against the p99 of the same version in the last hour."""

    min_requests: Times = 300
    min_difference_ms: Annotated[float, Field(ge=0)] = 5.0
    steps: LatencySteps = (
        LatencyStep(window_seconds=1, factor=3),
        LatencyStep(window_seconds=10, factor=2.5),
        LatencyStep(window_seconds=60, factor=2),
        LatencyStep(window_seconds=300, factor=2),
    )


class LatencyProduction(Rule):
    """p99 of a canary against the p99 of production in the same windows."""

    min_requests: Times = 100
    min_difference_ms: Annotated[float, Field(ge=0)] = 5.0
    warm_up_seconds: Seconds = 120.0
    steps: LatencySteps = (
        LatencyStep(window_seconds=10, factor=3),
        LatencyStep(window_seconds=60, factor=2),
        LatencyStep(window_seconds=300, factor=2),
    )


class ShareStep(_Strict):
    """The hit rate is too low when it is below `factor` of the baseline in three consecutive windows."""

    window_seconds: WindowSeconds
    factor: Share


class CacheHits(Rule):
    """The hit rate of the cache against that of the same version in the last hour."""

    min_lookups: Times = 100
    min_baseline: Share = 0.2
    steps: Annotated[tuple[ShareStep, ...], Field(min_length=1, strict=False)] = (
        ShareStep(window_seconds=10, factor=0.25),
        ShareStep(window_seconds=60, factor=0.5),
        ShareStep(window_seconds=300, factor=0.5),
    )


class NoTraffic(Rule):
    """A version with weight gets no requests, although its model's earlier traffic predicts many."""

    severity: Severity = "critical"
    silent_seconds: Annotated[float, Field(ge=10, le=21_600)] = 60.0
    expected_requests: Times = 100


class Occurrences(Rule):
    """An event occurred `times` times within `window_seconds`."""

    window_seconds: Annotated[float, Field(ge=10, le=21_600)] = 60.0
    times: Times = 1


class ConsumerLag(Rule):
    """The oldest unanswered request is older than `age_seconds`, and the backlog of its partition does not shrink."""

    severity: Severity = "critical"
    hold_seconds: Annotated[float, Field(ge=0, le=86_400)] = 10.0
    age_seconds: Annotated[float, Field(ge=1, le=600)] = 30.0


class StaleWorkers(Rule):
    """Workers that died without an orderly end, or that do not follow the registry."""

    hold_seconds: Annotated[float, Field(ge=0, le=86_400)] = 10.0
    workers: Times = 1
    silent_seconds: Seconds = 15.0
    forget_seconds: Seconds = 600.0
    behind_seconds: Annotated[float, Field(gt=0, le=600)] = 60.0
    loading_seconds: Seconds = 600.0


class DeltaLoss(Rule):
    """Lost metrics deltas, by which the figures of the other rules are too low."""

    deltas: Times = 1
    settle_seconds: Annotated[float, Field(ge=10, le=300)] = 60.0
    window_seconds: Annotated[float, Field(ge=60, le=600)] = 600.0


class ModelRules(_Strict):
    """The rules of one model, applied to each of its versions."""

    error_rate: ErrorRate = ErrorRate()
    input_faults: InputFaults = InputFaults()
    refused_requests: RefusedRequests = RefusedRequests()
    stricter_input: StricterInput = StricterInput()
    latency_baseline: LatencyBaseline = LatencyBaseline()
    latency_production: LatencyProduction = LatencyProduction()
    cache_hits: CacheHits = CacheHits()
    no_traffic: NoTraffic = NoTraffic()
    load_failure: Occurrences = Occurrences(severity="critical")
    rollback_target: Occurrences = Occurrences(window_seconds=180)
    breaker_opened: Occurrences = Occurrences()


class GlobalRules(_Strict):
    """The rules of the whole system; their alerts have the scope "global"."""

    consumer_lag: ConsumerLag = ConsumerLag()
    stale_workers: StaleWorkers = StaleWorkers()
    delta_loss: DeltaLoss = DeltaLoss()


GLOBAL = ""
"""Takes the place of a model's name for the global rules: in a Kafka key, and in PostgreSQL."""


def scope_of(model_name: str) -> Literal["model", "global"]:
    """The scope of an alert or of rules with this model name."""
    return "global" if model_name == GLOBAL else "model"


def rules_class(model_name: str) -> type[ModelRules] | type[GlobalRules]:
    """The class of the rules of a model, or of the global rules."""
    return GlobalRules if model_name == GLOBAL else ModelRules
