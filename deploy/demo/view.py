"""Output on the terminal: steps as text, then a live table, or lines without a terminal."""

import sys
from collections.abc import Callable
from contextlib import nullcontext, suppress

from rich.console import Group
from rich.live import Live

from schemas.errors import UnavailableError
from streams.cli.output import cell, console
from streams.cli.top import figures_table
from streams.config.settings import Settings
from streams.monitoring.live_figures import live_figures
from streams.monitoring.live_view import VersionRow

_LINES_EVERY = 5


def print_text(text: str) -> None:
    """Print to standard error; standard output is for the result."""
    # The reader's terminal may be closed; the clean-up must still run.
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)  # noqa: T201 - the demo prints


async def show_live(settings: Settings, status: Callable[[], str]) -> None:
    """Show the table of `headrace top` and the status below it until cancelled.

    A terminal is updated each second; other outputs get lines every 5 seconds.
    """
    screen = console(to_stderr=True)
    live = Live(console=screen, auto_refresh=False) if screen.is_terminal else None
    try:
        with live or nullcontext():
            second = 0
            async for figures in live_figures(settings, seconds=None, once=False):
                second += 1
                if live:
                    live.update(Group(figures_table(figures, settings), "", status()), refresh=True)
                elif second % _LINES_EVERY == 0:
                    print_text("\n".join([status(), *map(_line, figures.versions)]))
    except UnavailableError as error:
        # Requests without a response show the failure too.
        print_text(f"the live view ended: {error}")


def _line(row: VersionRow) -> str:
    """One version in a line."""
    return (
        f"  {row.model_version or '(none)'}: {row.requests_per_second:.0f}/s, "
        f"p50 {cell(row.p50_ms, '.2f')} ms, p99 {cell(row.p99_ms, '.2f')} ms, "
        f"cache hits {cell(row.cache_hit_share, '.0%')}, errors {sum(row.errors.values())}"
    )
