"""PURE. From measurements to ratios, and whether tracing that is off costs nothing."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

WITHOUT, OFF = "without", "off"
COMPETITORS: Final = (WITHOUT, OFF, "on, none sampled", "on, 1% sampled", "on, all sampled")
# What repeated runs of the same code differ by.
OFF_AT_MOST: Final = 1.02


@dataclass(frozen=True, slots=True)
class Measured:
    """One competitor in one round."""

    workload: str
    competitor: str
    round: int
    cpu_us_per_record: float


def document(measured: Sequence[Measured]) -> dict[str, Any]:
    """Medians over the rounds; a ratio is one within a round, whose competitors were disturbed alike."""
    costs: dict[str, dict[str, list[float]]] = {}
    for one in measured:
        costs.setdefault(one.workload, {}).setdefault(one.competitor, []).append(one.cpu_us_per_record)
    ratios = {
        workload: {
            name: median(own / bare for own, bare in zip(each, by_name[WITHOUT], strict=True))
            for name, each in by_name.items()
        }
        for workload, by_name in costs.items()
    }
    return {
        "rounds": len({one.round for one in measured}),
        "cpu_us_per_record": {
            workload: {name: median(each) for name, each in by_name.items()}
            for workload, by_name in costs.items()
        },
        "ratios": ratios,
        "targets": {
            f"off_ratio_{workload}": {
                "is": by_name[OFF],
                "at_most": OFF_AT_MOST,
                "reached": by_name[OFF] <= OFF_AT_MOST,
            }
            for workload, by_name in ratios.items()
        },
    }
