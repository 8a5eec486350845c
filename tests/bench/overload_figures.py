"""PURE. What an overloaded worker did: latencies of the others, what was refused, recovery and memory."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import numpy as np

WITHOUT, WITH = "without", "with"
"""Without and with a slow version."""

# In the second half of a run the resident set must stay this near to its median. With few requests a second a worker
# reaches its size only after half a minute.
WARM_UP_SHARE, FLAT_SHARE = 0.5, 0.1
RECOVERY_SECONDS = 10.0
# Of the others beside a slow version, to the run without one.
P99_RATIO, BACKLOG_RATIO = 2.0, 2.0


@dataclass(frozen=True, slots=True)
class LoadRun:
    """One run at a constant rate.

    `others_ms` are the latencies of the requests that neither the slow nor the busy version answered, `asked_busy` and
    `refused` count the requests of the busy version, `recovery_seconds` is from the last request to the last response.
    """

    others_ms: Sequence[float]
    asked_busy: int
    refused: int
    errors: Mapping[str, int]
    recovery_seconds: float
    rss_bytes: Sequence[int]


@dataclass(frozen=True, slots=True)
class BacklogRun:
    """One backlog; `others_seconds` is from the worker's first response to the last one of another version."""

    others: int
    others_seconds: float


def document(
    loads: Mapping[str, LoadRun], backlogs: Mapping[str, Sequence[BacklogRun]], *, seconds: float
) -> dict[str, Any]:
    """The figures of both kinds of runs, each with and without a slow version, and the targets."""
    loaded = {name: _of_load(run) for name, run in loads.items()}
    rates = {name: median(run.others / run.others_seconds for run in runs) for name, runs in backlogs.items()}
    targets = {
        "others_p99_ratio": _at_most(
            loaded[WITH]["others_p99_ms"] / loaded[WITHOUT]["others_p99_ms"], P99_RATIO
        ),
        "others_backlog_ratio": _at_most(rates[WITHOUT] / rates[WITH], BACKLOG_RATIO),
    }
    for name, figures in loaded.items():
        targets[f"recovery_seconds_{name}"] = _at_most(figures["recovery_seconds"], RECOVERY_SECONDS)
        targets[f"rss_deviation_{name}"] = _at_most(figures["rss_largest_deviation"], FLAT_SHARE)
    return {
        "seconds": seconds,
        "load": loaded,
        "backlog": {
            name: {"others_per_second": rates[name], "runs": [asdict(run) for run in runs]}
            for name, runs in backlogs.items()
        },
        "targets": targets,
    }


def _of_load(run: LoadRun) -> dict[str, Any]:
    settled = run.rss_bytes[int(WARM_UP_SHARE * len(run.rss_bytes)) :]
    typical = median(settled)
    p50, p99 = (float(np.percentile(run.others_ms, share)) for share in (50, 99))
    return {
        "others": len(run.others_ms),
        "others_p50_ms": p50,
        "others_p99_ms": p99,
        "busy_asked": run.asked_busy,
        "busy_refused_share": run.refused / run.asked_busy,
        "errors": dict(run.errors),
        "recovery_seconds": run.recovery_seconds,
        "rss_bytes": list(run.rss_bytes),
        "rss_median_bytes": int(typical),
        "rss_largest_deviation": max(max(settled) - typical, typical - min(settled)) / typical,
    }


def _at_most(value: float, limit: float) -> dict[str, Any]:
    return {"is": value, "at_most": limit, "reached": value <= limit}
