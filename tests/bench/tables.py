"""PURE. The figures as tables for a terminal."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from rich.table import Table

from .backends_figures import Row
from .competitors import ALL
from .figures import medians
from .latency import LatencyRound
from .log_figures import HEADRACE, LogRound
from .rounds import Round


def speed_table(rounds: Sequence[Round]) -> Table:
    table = Table(title="records a second", title_justify="left")
    for column in ("", "median", "min to max", "Headrace warm is", "CPU µs a record"):
        table.add_column(column, justify="left" if column == "" else "right")
    by_name = medians(rounds)
    headrace = by_name.get("headrace-warm")
    titles = {competitor.name: competitor.title for competitor in ALL}
    for name, typical in by_name.items():
        own = [round_ for round_ in rounds if round_.competitor == name]
        rates = [round_.records_per_second for round_ in own]
        table.add_row(
            titles[name],
            f"{typical:,.0f}",
            f"{min(rates):,.0f} to {max(rates):,.0f}",
            "" if headrace is None else f"{headrace / typical:.2f} times",
            f"{median(round_.cpu_us_per_record for round_ in own):.1f}",
        )
    return table


def latency_table(rounds: Sequence[LatencyRound]) -> Table:
    table = Table(title="milliseconds at 500 requests a second", title_justify="left")
    for column in ("", "p50", "p99", "longest", "sent late, p99"):
        table.add_column(column, justify="left" if column == "" else "right")
    for round_ in rounds:
        figures = (round_.p50_ms, round_.p99_ms, round_.max_ms, round_.sent_late_p99_ms)
        table.add_row(round_.competitor, *(f"{figure:.2f}" for figure in figures))
    return table


def ratio_table(targets: Mapping[str, Mapping[str, Any]]) -> Table:
    table = Table(title="targets", title_justify="left")
    for column in ("", "is", "wanted", ""):
        table.add_column(column, justify="left" if column == "" else "right")
    for name, target in targets.items():
        limit = f"≥ {target['at_least']:.2f}" if "at_least" in target else f"≤ {target['at_most']:.2f}"
        table.add_row(name, f"{target['is']:.2f}", limit, "reached" if target["reached"] else "missed")
    return table


def log_table(rounds: Sequence[LogRound]) -> Table:
    table = Table(title="rows a second in the prediction log", title_justify="left")
    for column in ("", "median", "min to max", "Headrace is", "CPU µs a row", "PostgreSQL's"):
        table.add_column(column, justify="left" if column == "" else "right")
    by_name: dict[str, list[LogRound]] = {}
    for round_ in rounds:
        by_name.setdefault(round_.competitor, []).append(round_)
    headrace = median(round_.rows_per_second for round_ in by_name[HEADRACE])
    for name, own in by_name.items():
        rates = [round_.rows_per_second for round_ in own]
        table.add_row(
            name,
            f"{median(rates):,.0f}",
            f"{min(rates):,.0f} to {max(rates):,.0f}",
            f"{headrace / median(rates):.2f} times",
            f"{median(round_.cpu_us_per_row for round_ in own):.1f}",
            f"{median(round_.postgres_cpu_us_per_row for round_ in own):.1f}",
        )
    return table


def backend_table(rows: Sequence[Row]) -> Table:
    table = Table(title="model servers: examples a second, and milliseconds", title_justify="left")
    for column in (
        "",
        "direct",
        "batched",
        "Headrace",
        "ratio",
        "p50 direct",
        "worker",
        "p99 well",
        "other hangs",
        "rise",
    ):
        table.add_column(column, justify="left" if column == "" else "right")
    for row in rows:
        figures = row.figures()

        def shown(name: str, form: str, figures: Mapping[str, float] = figures) -> str:
            return f"{figures[name]:{form}}" if name in figures else ""

        table.add_row(
            f"{row.name} ({row.server})" + (f"\nnot run: {row.not_run}" if row.not_run else ""),
            shown("direct_unbatched_per_second", ",.0f"),
            shown("direct_batched_per_second", ",.0f"),
            shown("headrace_per_second", ",.0f"),
            shown("ratio_vs_direct_batched", ".2f"),
            shown("direct_p50_ms", ".2f"),
            shown("worker_p50_ms", ".2f"),
            shown("well_p99_ms", ".1f"),
            shown("hung_p99_ms", ".1f"),
            shown("other_version_p99_rise", "+.0%"),
        )
    return table
