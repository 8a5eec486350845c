"""Metrics of the role `predict`: requests by version, and what the worker serves."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

from schemas.models import BUCKETS
from streams.prometheus import catalogue
from streams.prometheus.text_format import (
    NO_LABELS,
    Labels,
    Part,
    histogram,
    labels,
    simple,
    summary,
    with_label,
)
from streams.serving.active_tables import ActiveTables
from streams.serving.refresh import ServingRefresher
from streams.serving.request_metrics import LifetimeCounters, MetricsRegistry
from streams.serving.route_table import ServedModel, ServingTable

# The counters of a version that is no longer served are shown for this long, so that they are scraped once more.
KEPT = timedelta(hours=1)


class PredictMetrics:
    """Reads the counters, the serving table and the cache of a worker, and what waits for each version."""

    def __init__(
        self,
        counters: MetricsRegistry,
        tables: ActiveTables,
        refresher: ServingRefresher,
        *,
        rejected_cache_values: Callable[[], int],
        waiting: Callable[[str, str], int],
        unsent_bytes: Callable[[], int],
    ) -> None:
        self._counters = counters
        self._tables = tables
        self._refresher = refresher
        self._rejected_cache_values = rejected_cache_values
        self._waiting = waiting
        self._unsent_bytes = unsent_bytes

    def read(self) -> Iterator[Part]:
        """The metrics, one version after the other; those of one version are of one moment."""
        table = self._tables.current
        yield from _registry(table, self._refresher)
        yield simple(catalogue.CACHE_REJECTED_VALUES, [(NO_LABELS, self._rejected_cache_values())])
        yield simple(catalogue.UNSENT_BYTES, [(NO_LABELS, self._unsent_bytes())])
        for model in table.models.values():
            yield from _model(model, behind=model.model_name in table.behind)
            yield simple(
                catalogue.WAITING_REQUESTS,
                [
                    (
                        labels(model_name=model.model_name, model_version=version),
                        self._waiting(model.model_name, version),
                    )
                    for version in model.versions
                ],
            )
        served = {
            (model.model_name, version) for model in table.models.values() for version in model.versions
        }
        # Counters begin at zero before the first request, so that the first one is an increase.
        for key in sorted({*served, *self._counters.counted}):
            total = self._counters.lifetime_counters(*key)
            if key not in served and _is_over(total, datetime.now(UTC)):
                self._counters.forget(*key)
            else:
                yield from version_metrics(*key, total)


def _is_over(total: LifetimeCounters, now: datetime) -> bool:
    return total.counted_at is not None and now - total.counted_at > KEPT


def version_metrics(model_name: str, model_version: str, total: LifetimeCounters) -> Iterator[Part]:
    """PURE. The counters of one version."""
    own = labels(model_name=model_name, model_version=model_version)
    yield simple(
        catalogue.REQUESTS,
        [
            (with_label(own, "outcome", "ok"), total.ok),
            (with_label(own, "outcome", "error"), total.errors.total()),
        ],
    )
    if total.errors:
        yield simple(catalogue.REQUEST_ERRORS, _by_code(own, total.errors))
    if total.fallbacks:
        yield simple(catalogue.FALLBACK_CAUSES, _by_code(own, total.fallbacks))
    for metric, count in (
        (catalogue.FALLBACKS, total.fallbacks.total()),
        (catalogue.CACHE_HITS, total.cache_hits),
        (catalogue.CACHE_MISSES, total.cache_misses),
        (catalogue.LOAD_FAILURES, total.load_failures),
        (catalogue.BREAKER_OPENED, total.breaker_opened),
        (catalogue.INPUT_FAULTS, total.input_faults),
    ):
        yield simple(metric, [(own, count)])
    for metric, latencies in (
        (catalogue.REQUEST_LATENCY, total.latency_ms),
        (catalogue.REQUEST_END_TO_END, total.end_to_end_ms),
        (catalogue.BACKEND_CALL, total.backend_ms),
    ):
        if latencies.count:
            yield histogram(metric, own, latencies)
    yield summary(catalogue.BACKEND_BATCH_SIZE, own, count=total.calls, total=total.examples)


def _by_code(own: Labels, counts: dict[str, int]) -> list[tuple[Labels, float]]:
    return [(with_label(own, "code", code), count) for code, count in sorted(counts.items())]


def _registry(table: ServingTable, refresher: ServingRefresher) -> Iterator[Part]:
    for metric, value in (
        (catalogue.REGISTRY_EPOCH, table.epoch),
        (catalogue.REGISTRY_AGE, refresher.age_seconds()),
        (catalogue.MODELS, len(table.models)),
        (catalogue.MODEL_VERSIONS, len(table.versions())),
    ):
        yield simple(metric, [(NO_LABELS, value)])


def _model(model: ServedModel, *, behind: bool) -> Iterator[Part]:
    own = labels(model_name=model.model_name)
    yield simple(catalogue.MODEL_REVISION, [(own, model.revision)])
    yield simple(catalogue.MODEL_BEHIND, [(own, behind)])
    weights = _weights(model)
    of_version = {name: with_label(own, "model_version", name) for name in model.versions}
    yield simple(
        catalogue.TRAFFIC_WEIGHT,
        [(of_version[name], weights.get(name, 0) / BUCKETS) for name in model.versions],
    )
    yield simple(
        catalogue.VERSION_LOADED,
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
