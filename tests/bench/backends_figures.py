"""PURE. From rounds with each model server to its figures, the worst of each, and whether the targets are reached."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, Final

# Figure -> the least, or the most, that is wanted of the worst server.
AT_LEAST: Final[Mapping[str, float]] = {"ratio_vs_direct_batched": 0.9, "ratio_vs_direct_unbatched": 3.0}
AT_MOST: Final[Mapping[str, float]] = {"added_latency_p50_ms": 1.5, "other_version_p99_rise": 0.2}


@dataclass(frozen=True, slots=True)
class Throughput:
    """Examples a second; `unbatched` is None where a call has one example in any case."""

    unbatched: float | None
    batched: float
    headrace: float


@dataclass(frozen=True, slots=True)
class Latency:
    """Medians of a worker's `latency_ms` and of calls to the same server in between."""

    worker_p50_ms: float
    direct_p50_ms: float


@dataclass(frozen=True, slots=True)
class Hang:
    """p99 of one version's `latency_ms`, and from due to read, while the other's server was well and hung."""

    well_p99_ms: float
    hung_p99_ms: float
    well_end_to_end_p99_ms: float
    hung_end_to_end_p99_ms: float


@dataclass(slots=True)
class Row:
    """What was measured with one protocol of a server; `not_run` says why nothing was.

    `batch` and `calls` are the direct client's best way to ask.
    """

    name: str
    server: str
    not_run: str = ""
    batch: int = 0
    calls: int = 0
    throughput: list[Throughput] = field(default_factory=list)
    latency: list[Latency] = field(default_factory=list)
    hang: list[Hang] = field(default_factory=list)

    def figures(self) -> dict[str, float]:
        """Each figure for which there are rounds, from medians over them.

        What takes turns within a round is compared within it first: a machine that others use too is another one
        a minute later.
        """
        return {**self._throughput(), **self._latency(), **self._hang()}

    def _throughput(self) -> dict[str, float]:
        if not self.throughput:
            return {}
        headrace = median(round_.headrace for round_ in self.throughput)
        batched = median(round_.batched for round_ in self.throughput)
        figures = {
            "headrace_per_second": headrace,
            "direct_batched_per_second": batched,
            "ratio_vs_direct_batched": median(round_.headrace / round_.batched for round_ in self.throughput),
        }
        single = [round_.unbatched for round_ in self.throughput if round_.unbatched is not None]
        if single:
            figures["direct_unbatched_per_second"] = median(single)
            figures["ratio_vs_direct_unbatched"] = median(
                round_.headrace / round_.unbatched
                for round_ in self.throughput
                if round_.unbatched is not None
            )
        return figures

    def _latency(self) -> dict[str, float]:
        if not self.latency:
            return {}
        worker = median(round_.worker_p50_ms for round_ in self.latency)
        direct = median(round_.direct_p50_ms for round_ in self.latency)
        return {
            "worker_p50_ms": worker,
            "direct_p50_ms": direct,
            "added_latency_p50_ms": median(
                round_.worker_p50_ms - round_.direct_p50_ms for round_ in self.latency
            ),
        }

    def _hang(self) -> dict[str, float]:
        if not self.hang:
            return {}
        well = median(round_.well_p99_ms for round_ in self.hang)
        hung = median(round_.hung_p99_ms for round_ in self.hang)
        well_whole = median(round_.well_end_to_end_p99_ms for round_ in self.hang)
        hung_whole = median(round_.hung_end_to_end_p99_ms for round_ in self.hang)
        return {
            "well_p99_ms": well,
            "hung_p99_ms": hung,
            "well_end_to_end_p99_ms": well_whole,
            "hung_end_to_end_p99_ms": hung_whole,
            # What waits in Kafka, because others hold the worker up, is not in its own latency.
            "other_version_p99_rise": max(hung / well, hung_whole / well_whole) - 1,
        }


def document(rows: Sequence[Row]) -> dict[str, Any]:
    """What is written to `backends.json`: the worst server's figures, targets, and a row for every server."""
    by_row = [row.figures() for row in rows]
    worst: dict[str, float] = {}
    targets: dict[str, dict[str, Any]] = {}
    for limits, limit_name, choose in ((AT_LEAST, "at_least", min), (AT_MOST, "at_most", max)):
        for name, limit in limits.items():
            values = [figures[name] for figures in by_row if name in figures]
            if values:
                value = worst[name] = choose(values)
                reached = value >= limit if limits is AT_LEAST else value <= limit
                targets[name] = {limit_name: limit, "is": value, "reached": reached}
    return {
        **worst,
        "targets": targets,
        "rows": [asdict(row) | figures for row, figures in zip(rows, by_row, strict=True)],
    }
