"""PURE. How many rows a second the prediction log takes, beside what promises less."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Final

START_SHARE: Final = 0.1
ROWS_PER_SECOND: Final = 20_000
HEADRACE, LOOP, COPY = "headrace-log", "bare-loop", "copy-alone"


@dataclass(frozen=True, slots=True)
class LogRound:
    """What one run came to; processor times are of the competitor's process and of PostgreSQL's."""

    competitor: str
    rows: int
    rows_per_second: float
    cpu_us_per_row: float
    postgres_cpu_us_per_row: float


def rate(transactions: Sequence[tuple[float, int]]) -> float:
    """Rows a second, of transactions by when they began (seconds, ascending) and how many rows they wrote.

    From the first that begins after the first tenth of the rows to the beginning of the last.
    """
    rows = sum(count for _, count in transactions)
    seen = 0
    for number, (began, count) in enumerate(transactions):
        if seen >= START_SHARE * rows:
            counted = sum(count for _, count in transactions[number:-1])
            return counted / (transactions[-1][0] - began)
        seen += count
    raise ValueError("all rows are of the start")


def document(rounds: Sequence[LogRound]) -> dict[str, Any]:
    """What is written to `log.json`."""
    rates = {name: median(each) for name, each in _by_competitor(rounds).items()}
    own = rates[HEADRACE]
    figures: dict[str, Any] = {
        "rows_per_second": rates,
        **{f"ratio_vs_{name.replace('-', '_')}": own / rates[name] for name in (LOOP, COPY) if name in rates},
    }
    targets = {
        "log_rows_per_second": {"at_least": ROWS_PER_SECOND, "is": own, "reached": own >= ROWS_PER_SECOND}
    }
    return {**figures, "targets": targets, "rounds": [asdict(each) for each in rounds]}


def _by_competitor(rounds: Iterable[LogRound]) -> Mapping[str, list[float]]:
    found: dict[str, list[float]] = {}
    for each in rounds:
        found.setdefault(each.competitor, []).append(each.rows_per_second)
    return found
