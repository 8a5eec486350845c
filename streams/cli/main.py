"""The entry point of `headrace`: its verbs, and what their errors mean to a script.

Exit codes: 0 done · 1 the verb failed or cannot start as configured · 2 wrong usage ·
3 a service cannot be reached or did not answer in time, or workers do not serve a change in time (`--wait`) ·
5 refused · 130 interrupted. `predict` adds 4: answered, but some with an error. With `--json`, a verb that failed prints
`{"error": {"code": …, "message": …}}` as its last line on standard output. A refused change prints its result,
which has `error` too. Wrong usage prints words only.
"""

import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer
import typer.core

from streams.cli.alerts import alerts
from streams.cli.audit_views import history, route
from streams.cli.check import check
from streams.cli.config import config
from streams.cli.dashboard import dashboard
from streams.cli.describe import describe
from streams.cli.import_verb import import_
from streams.cli.metrics import metrics
from streams.cli.overview import models
from streams.cli.predict import predict
from streams.cli.promotion_verbs import archive, canary, promote, register, reshuffle, rollback, split
from streams.cli.registry_views import status, versions
from streams.cli.schemas import schemas
from streams.cli.skip import skip, skips
from streams.cli.top import top
from streams.cli.up import init, up
from streams.cli.worker_verb import worker


class _GroupedByPurpose(typer.core.TyperGroup):
    """Lists the verbs below the titles that they were registered with; plain help has one list otherwise."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write one section for each title, in the order of registration; called by typer."""
        sections: dict[str, list[Any]] = {}
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            if command is not None and not command.hidden:
                sections.setdefault(getattr(command, "rich_help_panel", "Commands"), []).append(command)
        limit = formatter.width - 6 - max(map(len, self.commands))
        for title, commands in sections.items():
            with formatter.section(title):
                formatter.write_dl([(each.name, each.get_short_help_str(limit)) for each in commands])


app = typer.Typer(
    name="headrace",
    cls=_GroupedByPurpose,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Help without rich starts in a third of the time, and looks the same in every terminal.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)

VERBS: dict[str, tuple[Callable[..., None] | typer.Typer, ...]] = {
    "Start": (up, init, worker, dashboard),
    "Predict": (predict,),
    "Add a version": (describe, check, register, import_),
    "Change the traffic": (canary, split, promote, rollback, archive, reshuffle),
    "Inspect models": (status, models, versions, history, route),
    "Monitor": (top, metrics, alerts),
    "Repair": (skip, skips),
    "Reference": (config, schemas),
}
for _title, _verbs in VERBS.items():
    for _verb in _verbs:
        if isinstance(_verb, typer.Typer):
            app.add_typer(_verb, rich_help_panel=_title)
        else:
            app.command(_verb.__name__.rstrip("_"), rich_help_panel=_title)(_verb)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"headrace {version('headrace')}")
        raise typer.Exit


@app.callback()
def headrace(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Serve machine-learning predictions from Kafka. Start with `headrace up`."""


def main() -> None:
    """Run the command line of this process and exit with its code."""
    from schemas.errors import HeadraceError
    from streams.cli.output import write_in_any_encoding

    write_in_any_encoding()
    try:
        app()
    except HeadraceError as error:
        from streams.cli.failures import report

        sys.exit(report(error, as_json="--json" in sys.argv))
