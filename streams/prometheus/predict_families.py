"""What the role `predict` shows: requests by version, and what the worker serves."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from schemas.models import BUCKETS
from streams.prometheus.text_format import (
    NO_LABELS,
    Labels,
    Part,
    counter,
    gauge,
    histogram,
    labels,
    summary,
    with_label,
)
from streams.serving.active_tables import ActiveTables
from streams.serving.refresh import ServingRefresher
from streams.serving.request_metrics import LifetimeCounters, MetricsRegistry
from streams.serving.route_table import ServedModel, ServingTable

# Of a version that is not served any more; by then it was scraped a last time.
KEPT = timedelta(hours=1)


class PredictMetrics:
    """Reads the book and the table of a worker."""

    def __init__(self, book: MetricsRegistry, tables: ActiveTables, refresher: ServingRefresher) -> None:
        self._book = book
        self._tables = tables
        self._refresher = refresher

    def read(self) -> Iterator[Part]:
        """Their metrics, a version after the other; those of one version are of one moment."""
        table = self._tables.current
        yield from _registry(table, self._refresher)
        for model in table.models.values():
            yield from _model(model, behind=model.model_name in table.behind)
        served = {
            (model.model_name, version) for model in table.models.values() for version in model.versions
        }
        # Counters begin at zero before the first request, so that the first one is an increase.
        for key in sorted({*served, *self._book.counted}):
            total = self._book.lifetime_counters(*key)
            if key not in served and _is_over(total, datetime.now(UTC)):
                self._book.forget(*key)
            else:
                yield from version_metrics(*key, total)


def _is_over(total: LifetimeCounters, now: datetime) -> bool:
    return total.counted_at is not None and now - total.counted_at > KEPT


def version_metrics(model_name: str, model_version: str, total: LifetimeCounters) -> Iterator[Part]:
    """PURE. The counters of one version."""
    own = labels(model_name=model_name, model_version=model_version)
    yield counter(
        "headrace_requests_total",
        "Requests that this version answered, with predictions (ok) or an error.",
        [
            (with_label(own, "outcome", "ok"), total.ok),
            (with_label(own, "outcome", "error"), total.errors.total()),
        ],
    )
    if total.errors:
        yield counter(
            "headrace_request_errors_total",
            "Requests that were answered with an error, by its code; MALFORMED_RECORD got no answer.",
            _by_code(own, total.errors),
        )
    yield counter(
        "headrace_fallbacks_total",
        "Requests of this version that production answered in its place.",
        [(own, total.fallbacks.total())],
    )
    if total.fallbacks:
        yield counter(
            "headrace_fallback_causes_total",
            "Requests of this version that production answered in its place, by the code of what had failed.",
            _by_code(own, total.fallbacks),
        )
    for name, meaning, count in (
        ("headrace_cache_hits_total", "Predictions that came from the cache.", total.cache_hits),
        ("headrace_cache_misses_total", "Predictions that were inferred.", total.cache_misses),
        ("headrace_load_failures_total", "How often this version could not be loaded.", total.load_failures),
        (
            "headrace_breaker_opened_total",
            "How often its backend began to be spared calls.",
            total.breaker_opened,
        ),
    ):
        yield counter(name, meaning, [(own, count)])
    for name, meaning, latencies in (
        (
            "headrace_request_latency_seconds",
            "From the receipt of a request by the worker to its answer.",
            total.latency_ms,
        ),
        (
            "headrace_request_end_to_end_seconds",
            "From the timestamp of a request's record in Kafka to its answer.",
            total.end_to_end_ms,
        ),
        ("headrace_backend_call_seconds", "Calls of the backend, each for a batch.", total.backend_ms),
    ):
        if latencies.count:
            yield histogram(name, meaning, own, latencies)
    yield summary(
        "headrace_backend_batch_size",
        "Examples in one call of the backend.",
        own,
        count=total.calls,
        total=total.called,
    )


def _by_code(own: Labels, counts: dict[str, int]) -> list[tuple[Labels, float]]:
    return [(with_label(own, "code", code), count) for code, count in sorted(counts.items())]


def _registry(table: ServingTable, refresher: ServingRefresher) -> Iterator[Part]:
    for name, meaning, value in (
        ("headrace_registry_epoch", "The registry's epoch that this worker serves by.", table.epoch),
        (
            "headrace_registry_age_seconds",
            "How long ago this worker last read the registry.",
            refresher.age_seconds(),
        ),
        ("headrace_models", "Models that are served.", len(table.models)),
        (
            "headrace_model_versions",
            "Versions that are served, or loaded for a rollback.",
            len(table.versions()),
        ),
    ):
        yield gauge(name, meaning, [(NO_LABELS, value)])


def _model(model: ServedModel, *, behind: bool) -> Iterator[Part]:
    own = labels(model_name=model.model_name)
    yield gauge(
        "headrace_model_revision",
        "The revision by which this worker serves a model.",
        [(own, model.revision)],
    )
    yield gauge(
        "headrace_model_behind",
        "1 where this worker serves a model by an older route than the registry's.",
        [(own, behind)],
    )
    weights = _weights(model)
    of_version = {name: with_label(own, "model_version", name) for name in model.versions}
    yield gauge(
        "headrace_traffic_weight_ratio",
        "The share of a model's users that are routed to a version, from 0 to 1.",
        [(of_version[name], weights.get(name, 0) / BUCKETS) for name in model.versions],
    )
    yield gauge(
        "headrace_version_loaded",
        "0 where a version could not be loaded on this worker and has no older route to stay on.",
        [(of_version[name], version.is_loaded) for name, version in model.versions.items()],
    )


def _weights(model: ServedModel) -> dict[str, int]:
    """How many buckets each version has."""
    weights: dict[str, int] = {}
    start = 0
    for end, version in zip(model.ends, model.targets, strict=True):
        weights[version.spec.version] = weights.get(version.spec.version, 0) + end - start
        start = end
    return weights
