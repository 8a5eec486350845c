"""`headrace metrics`: the stored metrics of each version of a model."""

import re
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streams.cli.completion import complete_versions
from streams.cli.options import AsJson, EnvFile, SetFlags, command_settings
from streams.cli.registry_access import Model, registered, with_database

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.table import Table

    from schemas.windows import Window
    from streams.config.settings import Settings
    from streams.monitoring.version_metrics import Figures

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def metrics(
    model_name: Model,
    chosen: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="VERSION",
            help="Versions to show, instead of all; two are compared.",
            autocompletion=complete_versions,
        ),
    ] = None,
    *,
    since: Annotated[
        str, typer.Option("--since", help="Length of the span until now: 90s, 15m, 24h, 30d.")
    ] = "24h",
    env_file: EnvFile = None,
    flags: SetFlags = None,
    as_json: AsJson = False,
) -> None:
    """Show a model's requests, latency, cache hits and errors.

    By version, over the last hours, added up from all workers by the role monitor. p50 to p99.9 count from a
    record's arrival in the worker, "end to end" from the record's Kafka timestamp; they are at most 1.1% off.
    With --json: {"model_name", "since", "until", "resolution_seconds", "versions": {VERSION: {...}}, "difference",
    "missing_deltas"}; "difference" is there for two versions, the second less the first.
    """
    import asyncio
    from dataclasses import asdict
    from datetime import UTC, datetime

    from schemas.bounds import rfc3339
    from schemas.windows import window_start
    from streams.cli.output import console, print_json
    from streams.monitoring.version_metrics import by_version, difference, figures, resolution_for

    span = read_span(since)
    settings = command_settings(env_file, flags)
    until = datetime.now(UTC)
    resolution_seconds = resolution_for(span)
    begin = window_start(until - span, resolution_seconds)
    windows, missing_deltas = asyncio.run(_read(settings, model_name, resolution_seconds, begin, until))
    summed = by_version(windows)
    shown = {
        version: figures(totals, (until - begin).total_seconds())
        for version, totals in summed.items()
        if not chosen or version in chosen
    }
    if len(chosen or ()) > 1:
        shown = {version: shown[version] for version in chosen or () if version in shown}
    two = list(shown.values()) if len(shown) == 2 else None
    if as_json:
        print_json(
            {
                "model_name": model_name,
                "since": rfc3339(begin),
                "until": rfc3339(until),
                "resolution_seconds": resolution_seconds,
                "versions": {version: asdict(each) for version, each in shown.items()},
                "difference": difference(*two) if two else None,
                "missing_deltas": missing_deltas,
            }
        )
        return
    screen = console()
    if not shown:
        screen.print(
            f"Nothing was counted for {model_name} since {rfc3339(begin)}.\n"
            "Is there a worker with the role monitor (`headrace worker --roles monitor`), and are there "
            "requests (`headrace top` shows what the workers count now)?"
        )
        return
    screen.print(table_of(shown, difference(*two) if two else None))
    screen.print(f"since {rfc3339(begin)}, in windows of {resolution_seconds} s")
    if missing_deltas:
        screen.print(f"{missing_deltas} deltas of the workers are missing: the figures do not include them")


def read_span(text: str) -> timedelta:
    """Parse the span of `--since`; raises BadParameter."""
    match = re.fullmatch(r"(\d{1,5})([smhd])", text.strip())
    if match is None or not int(match[1]):
        raise typer.BadParameter("write a number and a unit, like 90s, 15m, 24h or 30d", param_hint="--since")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def table_of(shown: "Mapping[str, Figures]", differences: "Mapping[str, float] | None") -> "Table":
    """A column for each version; for two versions, one more for the difference."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("", no_wrap=True)
    for version in shown:
        table.add_column(version or "(none)", justify="right", overflow="fold")
    if differences is not None:
        table.add_column("difference", justify="right", no_wrap=True)
    for label, name, form in _ROWS:
        cells = [_cell(getattr(each, name), form) for each in shown.values()]
        if differences is not None:
            cells.append(_cell(differences.get(name), form, sign="+"))
        table.add_row(label, *cells)
    codes = sorted({code for each in shown.values() for code in (*each.errors, *each.fallbacks)})
    for code in codes:
        table.add_row(code, *(_times(each, code) for each in shown.values()), *_blank(differences))
    return table


_ROWS: "Sequence[tuple[str, str, str]]" = (
    ("requests", "requests", ",.0f"),
    ("per second", "requests_per_second", ",.2f"),
    ("p50 ms", "p50_ms", ",.2f"),
    ("p90 ms", "p90_ms", ",.2f"),
    ("p99 ms", "p99_ms", ",.2f"),
    ("p99.9 ms", "p999_ms", ",.2f"),
    ("end to end p50 ms", "end_to_end_p50_ms", ",.2f"),
    ("end to end p99 ms", "end_to_end_p99_ms", ",.2f"),
    ("backend p50 ms", "backend_p50_ms", ",.2f"),
    ("backend p99 ms", "backend_p99_ms", ",.2f"),
    ("cache hits", "cache_hit_share", ".1%"),
    ("failed", "error_share", ".2%"),
    ("load failures", "load_failures", ",.0f"),
    ("breaker opened", "breaker_opened", ",.0f"),
    ("failed for the input", "input_faults", ",.0f"),
)


def _cell(value: float | None, form: str, sign: str = "") -> str:
    return "-" if value is None else format(value, sign + form)


def _times(each: "Figures", code: str) -> str:
    """The number of responses with an error code, and of those that production answered instead."""
    fallen = each.fallbacks.get(code)
    return f"{each.errors.get(code, 0):,}" + (f" + {fallen:,} by production" if fallen else "")


def _blank(differences: "Mapping[str, float] | None") -> list[str]:
    return [] if differences is None else [""]


async def _read(
    settings: "Settings", model_name: str, resolution_seconds: int, since: Any, until: Any
) -> "tuple[list[Window], int]":
    from registry.metric_windows import MetricWindows

    async def ask(database: Any) -> "tuple[list[Window], int]":
        windows = MetricWindows(database)
        found = await windows.read(model_name, resolution_seconds, since, until)
        if not found:
            # Tell an unknown model from a model without requests.
            await registered(database, model_name)
        return found, sum((await windows.missing_deltas(settings.topic_metrics)).values())

    return await with_database(settings, ask)
