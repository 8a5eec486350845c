"""PURE. From rounds to medians, ratios and whether the targets are reached."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Final

from .latency import LatencyRound
from .rounds import Round


@dataclass(frozen=True, slots=True)
class Ratio:
    """`competitor`'s records a second over those of `peer`; `target` is the least that is wanted."""

    name: str
    competitor: str
    peer: str
    target: float | None = None


RATIOS: Final = (
    Ratio("ratio_vs_bare_aiokafka_warm", "headrace-warm", "bare-aiokafka", 1.0),
    Ratio("ratio_vs_bare_aiokafka_cold", "headrace-cold", "bare-aiokafka", 0.8),
    Ratio("ratio_vs_faust_echo", "headrace-warm", "faust-echo", 8.0),
    Ratio("ratio_vs_quix_echo", "headrace-warm", "quix-echo", 1.1),
    Ratio("ratio_vs_mlserver", "headrace-warm", "mlserver", 20.0),
    Ratio("ratio_vs_quix_same_work", "headrace-warm", "quix-same-work-warm", 6.0),
    Ratio("ratio_vs_faust_same_work", "headrace-warm", "faust-same-work-warm", 10.0),
    Ratio("ratio_vs_bare_aiokafka_defaults_warm", "headrace-warm", "bare-aiokafka-defaults"),
    Ratio("ratio_vs_bare_aiokafka_defaults_cold", "headrace-cold", "bare-aiokafka-defaults"),
    Ratio("ratio_vs_quix_same_work_cold", "headrace-cold", "quix-same-work-cold"),
    Ratio("ratio_vs_faust_same_work_cold", "headrace-cold", "faust-same-work-cold"),
)
LATENCY_P50_ABOVE_MS: Final = 2.0
LATENCY_P99_TIMES: Final = 1.5


def medians(rounds: Iterable[Round]) -> dict[str, float]:
    """Records a second of each competitor, in the order of their first rounds."""
    rates: dict[str, list[float]] = {}
    for round_ in rounds:
        rates.setdefault(round_.competitor, []).append(round_.records_per_second)
    return {name: median(values) for name, values in rates.items()}


def ratios(of: Mapping[str, float]) -> dict[str, float]:
    """Every ratio whose two competitors took part."""
    return {
        ratio.name: of[ratio.competitor] / of[ratio.peer]
        for ratio in RATIOS
        if ratio.competitor in of and ratio.peer in of
    }


def latencies(rounds: Sequence[LatencyRound]) -> dict[str, float]:
    """Medians over the rounds of Headrace's and the bare loop's percentiles; empty without both."""
    figures = {}
    for prefix, competitor in (("", "headrace-warm"), ("bare_", "bare-aiokafka")):
        own = [round_ for round_ in rounds if round_.competitor == competitor]
        if not own:
            return {}
        figures[f"{prefix}latency_p50_ms"] = median(round_.p50_ms for round_ in own)
        figures[f"{prefix}latency_p99_ms"] = median(round_.p99_ms for round_ in own)
    return figures


def document(rounds: Sequence[Round], latency_rounds: Sequence[LatencyRound]) -> dict[str, Any]:
    """What is written to `request-path.json`: figures, targets, and every round behind them."""
    ratio_figures = ratios(medians(rounds))
    latency_figures = latencies(latency_rounds)
    targets = {
        ratio.name: {
            "at_least": ratio.target,
            "is": ratio_figures[ratio.name],
            "reached": ratio_figures[ratio.name] >= ratio.target,
        }
        for ratio in RATIOS
        if ratio.target is not None and ratio.name in ratio_figures
    }
    if latency_figures:
        for name, limit in _latency_limits(latency_figures).items():
            value = latency_figures[name]
            targets[name] = {"at_most": limit, "is": value, "reached": value <= limit}
    return {
        **ratio_figures,
        **latency_figures,
        "records_per_second": medians(rounds),
        "targets": targets,
        "rounds": [asdict(round_) for round_ in rounds],
        "latency_rounds": [asdict(round_) for round_ in latency_rounds],
    }


def _latency_limits(figures: Mapping[str, float]) -> dict[str, float]:
    return {
        "latency_p50_ms": figures["bare_latency_p50_ms"] + LATENCY_P50_ABOVE_MS,
        "latency_p99_ms": figures["bare_latency_p99_ms"] * LATENCY_P99_TIMES,
    }
