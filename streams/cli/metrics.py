"""`headrace metrics`: the stored metrics of each version of a model."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from streams.cli.audit_views import changes_of
from streams.cli.completion import complete_versions
from streams.cli.options import AsJson, EnvFile, SetFlags, command_settings
from streams.cli.output import cell
from streams.cli.registry_access import Model, with_database

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.table import Table

    from registry.assignment import Change
    from registry.postgres import Database
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
        str,
        typer.Option(
            "--since",
            metavar="BEGINNING",
            help="A span until now, as 90s, 15m, 24h, 30d, or a revision, as r4.",
        ),
    ] = "24h",
    env_file: EnvFile = None,
    flags: SetFlags = None,
    as_json: AsJson = False,
) -> None:
    """Show a model's requests, latency, cache hits and errors.

    By version, over the last hours, added up from all workers by the role monitor. Requests per second are over the
    time in which the version had weight. p50 to p99.9 count from a record's arrival in the worker, "end to end" from
    the record's Kafka timestamp; they are at most 1.1% off. Two versions are compared: the second less the first.
    With --json: {"model_name", "since", "until", "resolution_seconds", "versions": {VERSION: {...}}, "difference",
    "difference_percent", "missing_deltas"}; the differences are null unless there are two versions.
    """
    import asyncio
    from dataclasses import asdict

    from schemas.bounds import rfc3339
    from schemas.wording import number_of
    from streams.cli.output import console, print_json
    from streams.monitoring.version_metrics import difference, difference_percent

    beginning = read_beginning(since)
    settings = command_settings(env_file, flags)
    read = asyncio.run(_read(settings, model_name, chosen or [], beginning))
    shown = read.shown
    two = list(shown.values()) if len(shown) == 2 else None
    if as_json:
        print_json(
            {
                "model_name": model_name,
                "since": rfc3339(read.since),
                "until": rfc3339(read.until),
                "resolution_seconds": read.resolution_seconds,
                "versions": {version: asdict(each) for version, each in shown.items()},
                "difference": difference(*two) if two else None,
                "difference_percent": difference_percent(*two) if two else None,
                "missing_deltas": read.missing_deltas,
            }
        )
        return
    screen = console()
    if not any(each.requests for each in shown.values()):
        screen.print(
            f"Nothing was counted for {' and '.join(chosen or [model_name])} since {rfc3339(read.since)}.\n"
            "Is there a worker with the role monitor (`headrace worker --roles monitor`), and are there "
            "requests (`headrace top` shows what the workers count now)?"
        )
        return
    screen.print(table_of(shown, (difference(*two), difference_percent(*two)) if two else None))
    screen.print(f"since {rfc3339(read.since)}, in windows of {read.resolution_seconds} s")
    if read.missing_deltas:
        missing = number_of(read.missing_deltas, "delta of the workers is", "deltas of the workers are")
        screen.print(f"{missing} missing: the figures do not include all counts")


def read_beginning(text: str) -> timedelta | int:
    """PURE. Parse `--since`: a span until now, or the number of a revision; raises BadParameter."""
    match = re.fullmatch(r"(\d{1,5})([smhd])|r(\d{1,18})", text.strip())
    if match is None or (match[1] and not int(match[1])):
        raise typer.BadParameter(
            "write a number and a unit, like 90s, 15m, 24h or 30d, or a revision, like r4",
            param_hint="--since",
        )
    return int(match[3]) if match[3] else timedelta(**{_UNITS[match[2]]: int(match[1])})


def table_of(
    shown: "Mapping[str, Figures]", differences: "tuple[Mapping[str, float], Mapping[str, float]] | None"
) -> "Table":
    """A column for each version; for two versions, two more for the difference, the second one in per cent."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("", no_wrap=True)
    for version in shown:
        table.add_column(version or "(none)", justify="right", overflow="fold")
    if differences is not None:
        table.add_column("difference", justify="right", no_wrap=True)
        table.add_column("in %", justify="right", no_wrap=True)
    for label, name, form in _ROWS:
        cells = [cell(getattr(each, name), form) for each in shown.values()]
        if differences is not None:
            cells.append(cell(differences[0].get(name), f"+{form}"))
            cells.append(cell(differences[1].get(name), "+.1f"))
        table.add_row(label, *cells)
    codes = sorted({code for each in shown.values() for code in (*each.errors, *each.fallbacks)})
    for code in codes:
        table.add_row(
            code, *(_times(each, code) for each in shown.values()), *([] if differences is None else ["", ""])
        )
    return table


_ROWS: "Sequence[tuple[str, str, str]]" = (
    ("requests", "requests", ",.0f"),
    ("seconds with weight", "weight_seconds", ",.0f"),
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


def _times(each: "Figures", code: str) -> str:
    """The number of responses with an error code, and of those that production answered instead."""
    fallen = each.fallbacks.get(code)
    return f"{each.errors.get(code, 0):,}" + (f" + {fallen:,} by production" if fallen else "")


@dataclass(frozen=True, slots=True)
class _Read:
    """The figures of the versions to show, over whole windows from `since` to now."""

    since: datetime
    until: datetime
    resolution_seconds: int
    shown: "Mapping[str, Figures]"
    missing_deltas: int


async def _read(
    settings: "Settings", model_name: str, chosen: "Sequence[str]", beginning: timedelta | int
) -> _Read:
    from registry.metric_windows import MetricWindows
    from schemas.windows import Totals
    from streams.monitoring.version_metrics import by_version, figures, weight_seconds

    async def ask(database: "Database") -> _Read:
        changes = await changes_of(database, model_name)
        _refuse_unknown_versions(model_name, chosen, changes)
        until = datetime.now(UTC)
        since, resolution_seconds = first_window(model_name, beginning, changes, until)
        windows = MetricWindows(database)
        summed = by_version(await windows.read(model_name, resolution_seconds, since, until))
        lasted = weight_seconds(changes, since, until)
        missing = await windows.missing_deltas(settings.topic_metrics)
        return _Read(
            since,
            until,
            resolution_seconds,
            {
                version: figures(summed.get(version, Totals()), lasted.get(version, 0.0))
                for version in chosen or summed
            },
            sum(missing.values()),
        )

    return await with_database(settings, ask)


def first_window(
    model_name: str, beginning: timedelta | int, changes: "Sequence[Change]", until: datetime
) -> tuple[datetime, int]:
    """PURE. The start and the length of the first window to read; raises InvalidRequestError.

    For a revision it is the first one that has nothing from before the change.
    """
    from schemas.errors import InvalidRequestError
    from schemas.windows import window_start
    from streams.monitoring.version_metrics import resolution_for

    if isinstance(beginning, timedelta):
        resolution_seconds = resolution_for(beginning)
        return window_start(until - beginning, resolution_seconds), resolution_seconds
    for change in changes:
        if change.revision == beginning:
            resolution_seconds = resolution_for(until - change.applied_at)
            start = window_start(change.applied_at, resolution_seconds)
            return start + timedelta(seconds=resolution_seconds), resolution_seconds
    raise InvalidRequestError(
        f"{model_name} has no revision {beginning}: it has {changes[0].revision} to {changes[-1].revision} "
        f"(`headrace history {model_name}`)"
    )


def _refuse_unknown_versions(model_name: str, chosen: "Sequence[str]", changes: "Sequence[Change]") -> None:
    from registry.lifecycle import unknown_version

    known = changes[-1].after["statuses"]
    for version in chosen:
        if version not in known:
            raise unknown_version(model_name, version, known)
