"""The option `--wait`: wait until all live workers serve a result, and show which do."""

import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from registry.postgres import Database
    from schemas.models import PromotionResult
    from streams.config.settings import Settings
    from streams.promotions.convergence import Convergence

BAR_CELLS = 30


async def wait_for_workers(
    settings: "Settings",
    result: "PromotionResult",
    *,
    timeout_seconds: float,
    document: dict[str, Any] | None,
) -> None:
    """Wait until all live workers serve a result, and print which do; exit code 3 when some do not in time.

    With `document`, print it as JSON with the workers added; with None, print text.
    """
    from schemas.errors import RegistryUnavailableError
    from schemas.wording import number_of
    from streams.cli.failures import NOT_REACHABLE
    from streams.cli.output import print_json
    from streams.cli.registry_access import with_database

    async def follow_until_all_serve(database: "Database") -> "Convergence":
        return await _follow(database, result, timeout_seconds)

    try:
        seen = await with_database(settings, follow_until_all_serve)
    except RegistryUnavailableError as error:
        if document is not None:
            print_json(document)
        raise RegistryUnavailableError(
            f"{error}; revision {result.revision} is applied, but which workers serve it is unknown"
        ) from error
    if document is not None:
        workers = {
            "serving": list(seen.serving),
            "behind": dict(seen.behind),
            "older_revisions": dict(seen.older_revisions),
            "unloadable_targets": dict(seen.unloadable_targets),
            "silent": {worker: round(age_seconds, 1) for worker, age_seconds in seen.silent.items()},
        }
        print_json(document | {"workers": workers})
    for worker, age_seconds in seen.silent.items():
        print(
            f"headrace: {worker} has sent no heartbeat for {age_seconds:.0f} s; if it runs, it serves an older route, and "
            "its responses are stale",
            file=sys.stderr,
        )
    for worker, reason in seen.unloadable_targets.items():
        print(
            f"headrace: {worker} has no rollback target: {reason}; drop it by `headrace archive`, or mend it",
            file=sys.stderr,
        )
    if not seen.complete:
        count = len(seen.behind)
        message = (
            f"applied, but {count} of {number_of(count + len(seen.serving), 'live worker')} "
            f"{'does' if count == 1 else 'do'} not serve it after {timeout_seconds:g} s"
        )
        if document is not None:
            print_json({"error": {"code": "WORKERS_BEHIND", "message": message}})
        print(f"headrace: {message}:", *_reasons(seen), sep="\n", file=sys.stderr)
        raise typer.Exit(NOT_REACHABLE)
    if not seen.serving:
        print("headrace: no live worker; the next to start will serve it", file=sys.stderr)
    elif document is None:
        print(f"served by every live worker: {', '.join(seen.serving)}")


async def _follow(database: "Database", result: "PromotionResult", timeout_seconds: float) -> "Convergence":
    from registry.heartbeats import Heartbeats
    from streams.promotions.convergence import Convergence, wait_for_epoch

    seen = Convergence()
    readings = wait_for_epoch(
        Heartbeats(database), result.model_name, result.epoch, timeout_seconds=timeout_seconds
    )
    with _live_display() as screen:
        async for seen in readings:
            if screen is not None:
                screen.update(_progress_of(seen), refresh=True)
    return seen


def _live_display() -> Any:
    if not sys.stderr.isatty():
        return nullcontext()
    from rich.live import Live

    from streams.cli.output import console

    return Live(console=console(to_stderr=True), auto_refresh=False, transient=True)


def _progress_of(seen: "Convergence") -> Any:
    """A progress bar, and below it each worker, with the reason where it does not serve the result."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    total = len(seen.serving) + len(seen.behind)
    bar = Table.grid(padding=(0, 1))
    bar.add_row(
        "workers",
        ProgressBar(total=max(total, 1), completed=len(seen.serving), width=BAR_CELLS),
        f"{len(seen.serving)}/{total}",
    )
    return Group(
        bar,
        *(Text(f"  {worker}: serves it", style="green") for worker in seen.serving),
        *(Text(reason, style="yellow") for reason in _reasons(seen)),
    )


def _reasons(seen: "Convergence") -> list[str]:
    return [
        f"  {worker}: {reason}"
        + (f"; it serves revision {seen.older_revisions[worker]}" if worker in seen.older_revisions else "")
        for worker, reason in seen.behind.items()
    ]
