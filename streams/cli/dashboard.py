"""`headrace dashboard`: serve the live page in a process of its own."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from streams.cli.options import EnvFile, SetFlags, command_settings

if TYPE_CHECKING:
    from streams.config.settings import Settings

DEFAULT_PORT = 8350


def dashboard(
    *,
    host: Annotated[
        str, typer.Option("--host", metavar="HOST", help="Address on which the page is served.")
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option("--port", metavar="PORT", min=0, max=65535, help="Port of the page; 0 = a free one."),
    ] = DEFAULT_PORT,
    env_file: EnvFile = None,
    flags: SetFlags = None,
) -> None:
    """Serve the live page until Ctrl-C.

    The page shows each model's traffic split, figures, changes, alerts and workers, as PostgreSQL has them.
    Figures need a worker with the role monitor; where HEADRACE_HTTP_PORT is set, that worker serves the page
    too. With HEADRACE_DASHBOARD_TOKEN the page can promote and roll back. It is readable without the token.
    """
    import asyncio

    from streams.cli.output import plain_warnings, quiet_libraries

    settings = command_settings(env_file, flags)
    quiet_libraries(settings)
    plain_warnings(settings)
    try:
        asyncio.run(_serve(settings, host, port))
    except KeyboardInterrupt:
        # Ctrl-C is the usual end.
        raise typer.Exit(0) from None


async def _serve(settings: "Settings", host: str, port: int) -> None:
    from contextlib import AsyncExitStack

    from registry.postgres import Database
    from streams.dashboard.feed import Feed
    from streams.dashboard.http_routes import show_page
    from streams.dashboard.registry_reader import PageReader
    from streams.process.http import Web
    from streams.prometheus.page import MetricsPage

    web = Web()
    web.get("/metrics", MetricsPage().answer)
    async with AsyncExitStack() as opened:
        database = await Database.connect(settings.postgres_dsn.get_secret_value())
        opened.push_async_callback(database.close)
        feed = Feed(PageReader(database), may_promote=settings.dashboard_token is not None)
        show_page(web, feed, settings, host=host)
        bound = await opened.enter_async_context(
            web.serving(host, port, advice="choose another one by --host and --port")
        )
        where = f"[{host}]" if ":" in host else host
        print(f"http://{where}:{bound}/", flush=True)
        print("headrace: Ctrl-C ends it", file=sys.stderr)
        await feed.run_reading_loop()
