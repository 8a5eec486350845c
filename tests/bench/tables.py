"""PURE. The figures as tables for a terminal."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from rich.table import Table

from .contenders import ALL
from .contest import Round
from .figures import medians
from .latency import LatencyRound


def speed_table(rounds: Sequence[Round]) -> Table:
    table = Table(title="records a second", title_justify="left")
    for column in ("", "median", "min to max", "Headrace warm is", "CPU µs a record"):
        table.add_column(column, justify="left" if column == "" else "right")
    by_name = medians(rounds)
    headrace = by_name.get("headrace-warm")
    titles = {contender.name: contender.title for contender in ALL}
    for name, typical in by_name.items():
        own = [round_ for round_ in rounds if round_.contender == name]
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
        table.add_row(round_.contender, *(f"{figure:.2f}" for figure in figures))
    return table


def ratio_table(targets: Mapping[str, Mapping[str, Any]]) -> Table:
    table = Table(title="targets", title_justify="left")
    for column in ("", "is", "wanted", ""):
        table.add_column(column, justify="left" if column == "" else "right")
    for name, target in targets.items():
        limit = f"≥ {target['at_least']:.2f}" if "at_least" in target else f"≤ {target['at_most']:.2f}"
        table.add_row(name, f"{target['is']:.2f}", limit, "reached" if target["reached"] else "missed")
    return table
