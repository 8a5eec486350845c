"""PURE. The figures of `headrace metrics`: of each version over a span of time, and the differences of two."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta

from registry.assignment import Change
from schemas.histogram import measured_quantile
from schemas.windows import Totals, Window, total

# A span is read in the finest windows that are few enough to read.
_LONGEST = ((10, timedelta(minutes=30)), (60, timedelta(days=2)))
_COARSEST_SECONDS = 3600


@dataclass(frozen=True, slots=True)
class Figures:
    """One version over a span; times in milliseconds, shares from 0 to 1, None where nothing was measured.

    `requests_per_second` is over the part of the span in which the version had weight, `weight_seconds`.
    """

    requests: int
    weight_seconds: float
    requests_per_second: float | None
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    p999_ms: float | None
    end_to_end_p50_ms: float | None
    end_to_end_p99_ms: float | None
    backend_p50_ms: float | None
    backend_p99_ms: float | None
    cache_hit_share: float | None
    error_share: float | None
    errors: Mapping[str, int]
    fallbacks: Mapping[str, int]
    load_failures: int
    breaker_opened: int
    input_faults: int


def resolution_for(span: timedelta) -> int:
    """The length, in seconds, of the windows in which a span is read."""
    return next((resolution for resolution, longest in _LONGEST if span <= longest), _COARSEST_SECONDS)


def by_version(windows: Iterable[Window]) -> dict[str, Totals]:
    """The sum of each version's windows, by its name; "" has the requests that reached no version."""
    parts: dict[str, list[Totals]] = defaultdict(list)
    for window in windows:
        parts[window.model_version].append(window.totals)
    return {version: total(parts[version]) for version in sorted(parts)}


def weight_seconds(changes: Sequence[Change], since: datetime, until: datetime) -> dict[str, float]:
    """How long each version of a model had weight between two times, by the model's changes, oldest first.

    "" stands for no version: it has the time since the model was registered.
    """
    seconds: dict[str, float] = defaultdict(float)
    ends = [*(change.applied_at for change in changes[1:]), until]
    for change, end in zip(changes, ends, strict=True):
        lasted = (min(end, until) - max(change.applied_at, since)).total_seconds()
        if lasted > 0:
            for version in ("", *change.after["weights"]):
                seconds[version] += lasted
    return dict(seconds)


def figures(totals: Totals, seconds_with_weight: float) -> Figures:
    """The figures of a version that had weight for so long."""
    return Figures(
        requests=totals.requests,
        weight_seconds=seconds_with_weight,
        requests_per_second=totals.requests / seconds_with_weight if seconds_with_weight else None,
        p50_ms=measured_quantile(totals.latency_ms, 0.5),
        p90_ms=measured_quantile(totals.latency_ms, 0.9),
        p99_ms=measured_quantile(totals.latency_ms, 0.99),
        p999_ms=measured_quantile(totals.latency_ms, 0.999),
        end_to_end_p50_ms=measured_quantile(totals.end_to_end_ms, 0.5),
        end_to_end_p99_ms=measured_quantile(totals.end_to_end_ms, 0.99),
        backend_p50_ms=measured_quantile(totals.backend_ms, 0.5),
        backend_p99_ms=measured_quantile(totals.backend_ms, 0.99),
        cache_hit_share=totals.cache_hit_share,
        error_share=totals.error_share if totals.asked else None,
        errors=dict(sorted(totals.errors.items())),
        fallbacks=dict(sorted(totals.fallbacks.items())),
        load_failures=totals.load_failures,
        breaker_opened=totals.breaker_opened,
        input_faults=totals.input_faults,
    )


def difference(first: Figures, second: Figures) -> dict[str, float]:
    """The second minus the first, for each number that both have."""
    differences = {}
    for field in fields(Figures):
        one, other = getattr(first, field.name), getattr(second, field.name)
        if isinstance(one, int | float) and isinstance(other, int | float):
            differences[field.name] = other - one
    return differences


def difference_percent(first: Figures, second: Figures) -> dict[str, float]:
    """The difference in per cent of the first, for each number that both have and that is not 0 in the first."""
    return {
        name: each / getattr(first, name) * 100
        for name, each in difference(first, second).items()
        if getattr(first, name)
    }
