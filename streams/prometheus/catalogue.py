"""PURE. Every metric of Headrace: its name, type, unit, labels and meaning. Nothing else in the product names one.

The page `/metrics`, the table in docs/monitoring.md, and the tests of the Prometheus rules and of the Grafana
dashboard read this catalogue. To add a metric: add it here, yield it in a `*_families.py`, run `make docs`.
It has over 300 lines because the whole list is easier to search than parts of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class MetricType(StrEnum):
    """A Prometheus metric type."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"
    SUMMARY = "summary"


class Unit(StrEnum):
    """What a value measures. Names of metrics in seconds or ratios end in the unit, as Prometheus advises."""

    COUNT = "count"
    SECONDS = "seconds"
    BYTES = "bytes"
    RATIO = "ratio"
    """From 0 to 1."""
    FLAG = "flag"
    """0 or 1."""
    NUMBER = "number"
    """A position in a sequence, as an epoch."""


class Source(StrEnum):
    """Which process shows a metric."""

    PREDICT = "`predict`"
    MONITOR = "`monitor`"
    SAMPLING_MONITOR = "`monitor` that evaluates the global rules"
    CONTROL = "`control`"
    LOG = "`log`"
    ROLES = "each role"
    PROCESS = "each process"
    SUPERVISOR = "the supervisor"


# Compared by identity: each metric is a constant below.
@dataclass(frozen=True, slots=True, eq=False)
class Metric:
    """One metric; `labels` are the label names that its samples may have."""

    name: str
    type: MetricType
    unit: Unit
    source: Source
    labels: Sequence[str]
    meaning: str


_VERSION = ("model_name", "model_version")


def _counter(name: str, source: Source, labels: Sequence[str], meaning: str) -> Metric:
    return Metric(name, MetricType.COUNTER, Unit.COUNT, source, labels, meaning)


def _gauge(name: str, source: Source, labels: Sequence[str], meaning: str, unit: Unit = Unit.COUNT) -> Metric:
    return Metric(name, MetricType.GAUGE, unit, source, labels, meaning)


def _latency(name: str, meaning: str) -> Metric:
    return Metric(name, MetricType.HISTOGRAM, Unit.SECONDS, Source.PREDICT, _VERSION, meaning)


REQUESTS = _counter(
    "headrace_requests_total",
    Source.PREDICT,
    (*_VERSION, "outcome"),
    "Requests that this version answered, with predictions (ok) or an error.",
)
REQUEST_ERRORS = _counter(
    "headrace_request_errors_total",
    Source.PREDICT,
    (*_VERSION, "code"),
    "Requests that were answered with an error, by its code; MALFORMED_RECORD got no answer.",
)
FALLBACKS = _counter(
    "headrace_fallbacks_total",
    Source.PREDICT,
    _VERSION,
    "Requests of this version that the production version answered instead.",
)
FALLBACK_CAUSES = _counter(
    "headrace_fallback_causes_total",
    Source.PREDICT,
    (*_VERSION, "code"),
    "Requests of this version that the production version answered instead, by the error code of the failure.",
)
CACHE_HITS = _counter(
    "headrace_cache_hits_total", Source.PREDICT, _VERSION, "Predictions that came from the cache."
)
CACHE_MISSES = _counter(
    "headrace_cache_misses_total", Source.PREDICT, _VERSION, "Predictions that the backend inferred."
)
CACHE_REJECTED_VALUES = _counter(
    "headrace_cache_rejected_values_total",
    Source.PREDICT,
    (),
    "Values in Redis that no worker of this installation wrote under their key; they count as misses.",
)
WAITING_REQUESTS = _gauge(
    "headrace_waiting_requests",
    Source.PREDICT,
    _VERSION,
    "Requests that wait for this version's backend, those in a call included; max_waiting limits them.",
)
UNSENT_BYTES = _gauge(
    "headrace_unsent_predictions_bytes",
    Source.PREDICT,
    (),
    "Predictions that Kafka does not have yet; at HEADRACE_OUTPUT_BUFFER_BYTES no model is called.",
    Unit.BYTES,
)
LOAD_FAILURES = _counter(
    "headrace_load_failures_total",
    Source.PREDICT,
    _VERSION,
    "Failed attempts to load this version.",
)
BREAKER_OPENED = _counter(
    "headrace_breaker_opened_total",
    Source.PREDICT,
    _VERSION,
    "How often the circuit breaker of this version's backend opened.",
)
INPUT_FAULTS = _counter(
    "headrace_input_faults_total",
    Source.PREDICT,
    _VERSION,
    "Requests of this version that failed for their input: the backend predicted others.",
)
REQUEST_LATENCY = _latency(
    "headrace_request_latency_seconds", "From the receipt of a request by the worker to its answer."
)
REQUEST_END_TO_END = _latency(
    "headrace_request_end_to_end_seconds",
    "From the timestamp of a request's record in Kafka to its answer.",
)
BACKEND_CALL = _latency("headrace_backend_call_seconds", "Calls to the backend, one for each batch.")
BACKEND_BATCH_SIZE = Metric(
    "headrace_backend_batch_size",
    MetricType.SUMMARY,
    Unit.COUNT,
    Source.PREDICT,
    _VERSION,
    "Examples in one call to the backend; only the sum and the count.",
)
TRAFFIC_WEIGHT = _gauge(
    "headrace_traffic_weight_ratio",
    Source.PREDICT,
    _VERSION,
    "The share of a model's users that are routed to a version.",
    Unit.RATIO,
)
VERSION_LOADED = _gauge(
    "headrace_version_loaded",
    Source.PREDICT,
    _VERSION,
    "0 while this worker has not loaded a version and has no older route for the model.",
    Unit.FLAG,
)
MODEL_REVISION = _gauge(
    "headrace_model_revision",
    Source.PREDICT,
    ("model_name",),
    "The revision of the route that this worker serves.",
    Unit.NUMBER,
)
MODEL_BEHIND = _gauge(
    "headrace_model_behind",
    Source.PREDICT,
    ("model_name",),
    "1 while this worker serves an older route than the registry's.",
    Unit.FLAG,
)
REGISTRY_EPOCH = _gauge(
    "headrace_registry_epoch",
    Source.PREDICT,
    (),
    "The registry epoch that this worker serves.",
    Unit.NUMBER,
)
REGISTRY_AGE = _gauge(
    "headrace_registry_age_seconds",
    Source.PREDICT,
    (),
    "Time since this worker last read the registry.",
    Unit.SECONDS,
)
MODELS = _gauge("headrace_models", Source.PREDICT, (), "Models that are served.")
MODEL_VERSIONS = _gauge(
    "headrace_model_versions", Source.PREDICT, (), "Versions that are served, or loaded for a rollback."
)
ALERT_FIRING = _gauge(
    "headrace_alert_firing",
    Source.MONITOR,
    ("scope", "rule", "severity", *_VERSION),
    "1 while a rule of the monitor fires; absent otherwise.",
    Unit.FLAG,
)
MONITORED_MODELS = _gauge(
    "headrace_monitored_models", Source.MONITOR, (), "Models whose rules this monitor evaluates."
)
UNREADABLE_DELTAS = _counter(
    "headrace_unreadable_deltas_total",
    Source.MONITOR,
    (),
    "Records of `predict-metrics` that are not metrics deltas.",
)
GROUP_LAG = _gauge(
    "headrace_group_lag_records",
    Source.SAMPLING_MONITOR,
    ("partition",),
    "Requests of a partition that no worker has answered and committed yet.",
)
MISSING_DELTAS = _gauge(
    "headrace_missing_deltas",
    Source.SAMPLING_MONITOR,
    (),
    "Metrics deltas that were sent and have not been read, of all known workers; some may still arrive.",
)
WORKER_HEARTBEAT_AGE = _gauge(
    "headrace_worker_heartbeat_age_seconds",
    Source.SAMPLING_MONITOR,
    ("worker",),
    "Time since the last heartbeat of a worker.",
    Unit.SECONDS,
)
WORKER_EPOCHS_BEHIND = _gauge(
    "headrace_worker_epochs_behind",
    Source.SAMPLING_MONITOR,
    ("worker",),
    "Registry changes that a worker does not serve yet.",
)
WORKER_MODELS_BEHIND = _gauge(
    "headrace_worker_models_behind",
    Source.SAMPLING_MONITOR,
    ("worker",),
    "Models for which a worker serves an older route than the registry's.",
)
PROMOTIONS = _counter(
    "headrace_promotions_total",
    Source.CONTROL,
    ("action", "status"),
    "Promotion events that this process decided, with repeats; an unreadable event has no action.",
)
LOG_RESPONSES = _counter(
    "headrace_log_responses_total",
    Source.LOG,
    ("outcome",),
    "Responses read for the prediction log, by outcome: written, repeat, unreadable, not_kept.",
)
CONSUMER_LAG = _gauge(
    "headrace_consumer_lag_records",
    Source.ROLES,
    ("topic", "partition"),
    "Records of an assigned partition that were not dispatched yet, as of the last fetch.",
)
CONSUMER_OLDEST_AGE = _gauge(
    "headrace_consumer_oldest_age_seconds",
    Source.ROLES,
    ("topic",),
    "Age of the oldest unacknowledged record of this process; 0 when there is none.",
    Unit.SECONDS,
)
CONSUMER_INFLIGHT_SLICES = _gauge(
    "headrace_consumer_inflight_slices",
    Source.ROLES,
    ("topic",),
    "Unacknowledged slices that are not set aside, in units of one full slice.",
)
CONSUMER_SET_ASIDE_SLICES = _gauge(
    "headrace_consumer_set_aside_slices",
    Source.ROLES,
    ("topic",),
    "Slices that are set aside, because they wait for a slow version, in units of one full slice.",
)
CONSUMER_STEPPED_OVER = _counter(
    "headrace_consumer_stepped_over_total",
    Source.ROLES,
    ("topic", "code"),
    "Dead letters for what this process stepped over: batches that it could not read (UNREADABLE_BATCH) and records "
    "that three processes did not survive (ABANDONED_RECORD).",
)
CONSUMER_RECREATED_TOPICS = _counter(
    "headrace_consumer_recreated_topics_total",
    Source.ROLES,
    ("topic",),
    "How often this process found another topic of the same name, and began to read it from its beginning.",
)
RECORDS_LOST = _counter(
    "headrace_records_lost_total",
    Source.ROLES,
    ("topic",),
    "Records that Kafka deleted, by retention or on request, before this process read them.",
)
WORKER_INFO = _gauge(
    "headrace_worker_info",
    Source.PROCESS,
    ("worker", "role", "version"),
    "The name, role and release of this worker; always 1.",
    Unit.FLAG,
)
FAILED_STEPS = _counter(
    "headrace_background_failures_total",
    Source.PROCESS,
    ("failure",),
    "Failures of periodic work in the background, by what was not done; it is tried again.",
)
PROCESS_EXITS = _counter(
    "headrace_process_exits_total",
    Source.SUPERVISOR,
    (),
    "How often a process has ended by itself and was started again.",
)

METRICS: Sequence[Metric] = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
"""All of them, in the order of this file."""


def sample_names(metric: Metric) -> Sequence[str]:
    """The names of a metric's samples, as queries use them."""
    match metric.type:
        case MetricType.HISTOGRAM:
            return [f"{metric.name}_{part}" for part in ("bucket", "count", "sum")]
        case MetricType.SUMMARY:
            return [f"{metric.name}_{part}" for part in ("count", "sum")]
        case _:
            return [metric.name]


def markdown_table() -> str:
    """The table of docs/monitoring.md."""
    rows = [
        ("metric", "from", "type, unit", "labels", "meaning"),
        ("---",) * 5,
        *(
            (
                f"`{metric.name}`",
                metric.source,
                f"{metric.type}, {metric.unit}",
                ", ".join(f"`{label}`" for label in metric.labels),
                metric.meaning,
            )
            for metric in METRICS
        ),
    ]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)
