"""`headrace top`: the live figures of each model version."""

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streams.cli.options import AsJson, EnvFile, SetFlags, command_settings
from streams.cli.output import cell
from streams.cli.registry_access import OptionalModel

if TYPE_CHECKING:
    from rich.table import Table

    from streams.config.settings import Settings
    from streams.monitoring.live_view import LiveFigures, VersionRow

_ONCE_SECONDS = 2.0


def top(
    model_name: OptionalModel = None,
    *,
    once: Annotated[bool, typer.Option("--once", help="Measure for --seconds (2), print once, end.")] = False,
    seconds: Annotated[
        float | None, typer.Option("--seconds", metavar="SECONDS", help="End after this time.")
    ] = None,
    env_file: EnvFile = None,
    flags: SetFlags = None,
    as_json: AsJson = False,
) -> None:
    """Show live rate, latency, cache hits and errors by version.

    The figures cover the last 10 seconds and all workers. p50 and p99 count from a record's arrival in the
    worker, "end to end" from the record's Kafka timestamp. With --json: one object a second,
    {"at", "window_seconds", "versions": [...], "missing_deltas", "unreadable_records"}; figures of a version
    without requests are null.
    """
    import asyncio

    from streams.cli.output import quiet_libraries

    settings = command_settings(env_file, flags)
    quiet_libraries(settings)
    if once and seconds is None:
        seconds = _ONCE_SECONDS
    try:
        asyncio.run(_watch(settings, model_name, seconds=seconds, once=once, as_json=as_json))
    except KeyboardInterrupt:
        # Ctrl-C is the usual end.
        raise typer.Exit(0) from None


async def _watch(
    settings: "Settings", model_name: str | None, *, seconds: float | None, once: bool, as_json: bool
) -> None:
    from rich.live import Live

    from streams.cli.output import console, print_json
    from streams.monitoring.live_figures import live_figures

    screen = console()
    live = Live(console=screen, auto_refresh=False) if screen.is_terminal and not as_json else None
    with live or nullcontext():
        async for seen in live_figures(settings, seconds=seconds, once=once):
            rows = [row for row in seen.versions if model_name in (None, row.model_name)]
            figures = replace(seen, versions=rows)
            if as_json:
                print_json(_document(figures))
            elif live:
                live.update(figures_table(figures, settings), refresh=True)
            else:
                screen.print(figures_table(figures, settings))
                sys.stdout.flush()


def _document(figures: "LiveFigures") -> dict[str, Any]:
    from dataclasses import asdict
    from datetime import UTC, datetime

    from schemas.bounds import rfc3339
    from streams.monitoring.live_view import WINDOW_SECONDS

    return {"at": rfc3339(datetime.now(UTC)), "window_seconds": WINDOW_SECONDS, **asdict(figures)}


def figures_table(figures: "LiveFigures", settings: "Settings") -> Any:
    """The table of `headrace top`, with a note on lost and unreadable records."""
    from rich.console import Group

    from schemas.wording import number_of

    if not figures.versions and not figures.unreadable_records:
        return (
            f"Nothing arrives on {settings.topic_metrics} at {settings.kafka_bootstrap}.\n"
            "Workers write there each second while they answer requests: is one running (`headrace worker`), "
            "and are there requests (`headrace predict`)?"
        )
    notes = []
    if missing := figures.missing_deltas:
        notes.append(
            f"{number_of(missing, 'delta is', 'deltas are')} missing: the figures do not include all counts"
        )
    if unreadable := figures.unreadable_records:
        notes.append(f"{number_of(unreadable, 'record')} on {settings.topic_metrics} could not be read")
    return Group(_versions_table(figures.versions), *notes)


def _versions_table(rows: "Sequence[VersionRow]") -> "Table":
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("model", "version"):
        table.add_column(heading, overflow="fold")
    for heading in ("rev", "req/s", "p50 ms", "p99 ms", "end to end p99", "hits", "errors", "workers"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            row.model_name or "(none)",
            row.model_version or "(none)",
            str(row.revision),
            f"{row.requests_per_second:,.1f}",
            cell(row.p50_ms, ".2f"),
            cell(row.p99_ms, ".2f"),
            cell(row.end_to_end_p99_ms, ".2f"),
            cell(row.cache_hit_share, ".1%"),
            cell(row.error_share, ".2%"),
            str(row.workers),
            style="red" if (row.error_share or 0) > 0.01 else "",
        )
    return table
