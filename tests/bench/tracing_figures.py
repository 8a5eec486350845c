"""PURE. From measurements to ratios, and whether tracing that is off costs nothing."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import quantiles
from typing import Any, Final

WITHOUT, OFF = "without", "off"
CONTENDERS: Final = (WITHOUT, OFF, "on, none sampled", "on, 1% sampled", "on, all sampled")
# What repeated runs of the same code differ by.
OFF_AT_MOST: Final = 1.02


@dataclass(frozen=True, slots=True)
class Measured:
    """One contender in one round."""

    workload: str
    contender: str
    round: int
    cpu_us_per_record: float


def document(measured: Sequence[Measured]) -> dict[str, Any]:
    """The quickest tenth of each contender's rounds ends at its figure: a busy machine makes the others slow."""
    workloads = list(dict.fromkeys(one.workload for one in measured))
    costs = {
        workload: {name: _quick(measured, workload, name) for name in CONTENDERS} for workload in workloads
    }
    ratios = {
        workload: {name: cost / by_name[WITHOUT] for name, cost in by_name.items()}
        for workload, by_name in costs.items()
    }
    return {
        "rounds": len({one.round for one in measured}),
        "cpu_us_per_record": costs,
        "ratios": ratios,
        "targets": {
            f"off_ratio_{workload}": {
                "is": ratios[workload][OFF],
                "at_most": OFF_AT_MOST,
                "reached": ratios[workload][OFF] <= OFF_AT_MOST,
            }
            for workload in workloads
        },
    }


def _quick(measured: Sequence[Measured], workload: str, contender: str) -> float:
    own = [
        one.cpu_us_per_record for one in measured if (one.workload, one.contender) == (workload, contender)
    ]
    return quantiles(own, n=10)[0]
