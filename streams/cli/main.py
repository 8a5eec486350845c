"""The entry point of `headrace`: verbs, and what their errors mean to a script.

Exit codes: 0 done · 1 the verb failed or cannot start as configured · 2 refused, or used wrongly ·
3 a service cannot be reached or did not answer in time, or workers do not serve a change in time (`--wait`) ·
130 interrupted. `predict` adds 4: answered, but some with an error. With `--json` the last line on standard
output of a verb that failed is `{"error": {"code": …, "message": …}}`, and that of a refused change its
result, which has `error` too; wrong usage is told in words only.
"""

import sys
from typing import Annotated

import typer

from streams.cli.alerts import alerts
from streams.cli.audit_views import history, route
from streams.cli.check import check
from streams.cli.config import config
from streams.cli.dashboard import dashboard
from streams.cli.import_verb import import_
from streams.cli.init import init
from streams.cli.metrics import metrics
from streams.cli.predict import predict
from streams.cli.promotion_verbs import archive, canary, promote, register, reshuffle, rollback, split
from streams.cli.registry_views import status, versions
from streams.cli.schemas import schemas
from streams.cli.top import top
from streams.cli.up import up
from streams.cli.worker_verb import worker

app = typer.Typer(
    name="headrace",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    # Plain help needs no rich: it is there in a third of the time, and the same in every terminal.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)

app.command()(up)
app.command()(init)
app.command()(check)
app.command()(register)
app.command("import")(import_)
app.command()(canary)
app.command()(split)
app.command()(promote)
app.command()(rollback)
app.command()(archive)
app.command()(reshuffle)
app.command()(status)
app.command()(versions)
app.command()(history)
app.command()(route)
app.command()(worker)
app.command()(predict)
app.command()(top)
app.command()(dashboard)
app.command()(metrics)
app.add_typer(alerts, name="alerts")
app.command()(config)
app.command()(schemas)


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

    try:
        app()
    except HeadraceError as error:
        from streams.cli.failures import report

        sys.exit(report(error, as_json="--json" in sys.argv))
