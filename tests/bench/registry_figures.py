"""PURE. What a worker needs to follow a large registry, beside what is wanted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

import numpy as np

# Routing may cost what the processor's caches cost when a thousand routes take turns in them, no more.
LIMITS: Final[Mapping[str, float]] = {
    "cold_load_seconds": 2.0,
    "refresh_p99_ms": 20.0,
    "refresh_stall_ms": 5.0,
    "load_stall_ms": 5.0,
    "routing_ratio": 1.25,
}


@dataclass(frozen=True, slots=True)
class Watched:
    """Some work on an event loop: how long it took, and the longest that the loop was busy without a pause.

    `stall_cpu_ms` is the processor time of that pause: what is left of it on a machine that does nothing else.
    """

    ms: float
    stall_ms: float
    stall_cpu_ms: float


@dataclass(frozen=True, slots=True)
class Registry:
    """All that was measured; times of one kind are of as many repeats.

    `cold_seconds` are with backends that are there at once, `served_seconds` with a model server that is asked
    what inputs each version has. `routing_us` are for one request, by the number of models.
    """

    models: int
    versions: int
    cold_seconds: Sequence[float]
    served_seconds: float
    refresh_ms: Sequence[float]
    refreshes: Sequence[Watched]
    loads: Sequence[Watched]
    idle: Sequence[Watched]
    routing_us: Mapping[int, Sequence[float]]


def document(measured: Registry) -> dict[str, Any]:
    """What is written to `registry.json`."""
    # What makes a repeat slower than the quickest is not its own.
    routing_us = {models: min(times) for models, times in measured.routing_us.items()}
    figures: dict[str, Any] = {
        "models": measured.models,
        "versions": measured.versions,
        "cold_load_seconds": max(measured.cold_seconds),
        "cold_load_median_seconds": median(measured.cold_seconds),
        "cold_load_with_model_server_seconds": measured.served_seconds,
        "refresh_p50_ms": float(np.percentile(measured.refresh_ms, 50)),
        "refresh_p99_ms": float(np.percentile(measured.refresh_ms, 99)),
        **_stalls("refresh", measured.refreshes),
        "load_p50_ms": median(load.ms for load in measured.loads),
        **_stalls("load", measured.loads),
        **_stalls("idle", measured.idle),
        "routing_us": routing_us,
        "routing_ratio": routing_us[max(routing_us)] / routing_us[min(routing_us)],
    }
    targets = {
        name: {"at_most": limit, "is": figures[name], "reached": figures[name] <= limit}
        for name, limit in LIMITS.items()
    }
    return {**figures, "targets": targets}


def _stalls(name: str, watched: Sequence[Watched]) -> dict[str, float]:
    return {
        f"{name}_stall_ms": max(one.stall_ms for one in watched),
        f"{name}_stall_p50_ms": median(one.stall_ms for one in watched),
        f"{name}_stall_cpu_ms": max(one.stall_cpu_ms for one in watched),
    }
