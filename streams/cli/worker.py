"""`headrace worker`: a process that serves."""

from typing import Annotated

import typer

from streams.cli.options import EnvFile, SetFlags


def worker(
    *,
    roles: Annotated[
        str, typer.Option(help="What it does, comma-separated: predict, control, monitor, log.")
    ] = "predict,control,monitor",
    env_file: EnvFile = None,
    flags: SetFlags = None,
) -> None:
    """Serve until SIGTERM or Ctrl-C, which drains what is in flight and exits 0 within 10 seconds.

    Roles: predict answers requests; control decides promotions, one of all workers that have it at a
    time; monitor adds up what the workers count, for `headrace metrics`, and alerts; log writes each
    response to the table prediction_log.
    """
    import asyncio

    from schemas.errors import SetupError
    from streams.cli.options import command_settings
    from streams.logs import configure_logging
    from streams.worker import ROLES, Worker

    wanted = list(dict.fromkeys(role.strip() for role in roles.split(",") if role.strip()))
    unknown = [role for role in wanted if role not in ROLES]
    if unknown or not wanted:
        raise SetupError(f"no such role: {', '.join(unknown) or 'none named'}; roles are {', '.join(ROLES)}")
    settings = command_settings(env_file, flags)
    configure_logging(level=settings.log_level, log_format=settings.log_format)
    asyncio.run(Worker(settings, wanted).run())
