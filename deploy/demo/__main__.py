"""The demo's command line; `make demo` runs it."""

import sys
from typing import Annotated

import typer

from deploy.demo.run import run_demo
from schemas.errors import HeadraceError
from streams.cli.failures import FAILED, report
from streams.cli.output import print_json


def demo(
    *,
    seconds: Annotated[
        float | None,
        typer.Option(min=1, help="Seconds of traffic; without it until Ctrl-C.", show_default=False),
    ] = None,
    rate: Annotated[float, typer.Option(min=1, help="Requests per second.")] = 500.0,
) -> None:
    """Train two recommenders on MovieLens-100k, serve both, and replay real ratings as requests.

    The last line on standard output is one JSON object. The exit code is 0 when every request was answered.
    """
    result = run_demo(seconds=seconds, requests_per_second=rate)
    print_json(result)
    if result["lost"]:
        raise typer.Exit(FAILED)


def main() -> None:
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command()(demo)
    try:
        app()
    except HeadraceError as error:
        sys.exit(report(error, as_json=False))


if __name__ == "__main__":
    main()
