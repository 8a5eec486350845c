"""`headrace worker`: a process that serves."""

from typing import Annotated

import typer

from streams.cli.options import EnvFile, SetFlags

ROLES = ("predict",)


def worker(
    *,
    roles: Annotated[str, typer.Option(help="What it does, comma-separated: predict.")] = "predict",
    env_file: EnvFile = None,
    flags: SetFlags = None,
) -> None:
    """Serve until SIGTERM or Ctrl-C, which drains what is in flight and exits 0 within 10 seconds."""
    import asyncio

    from schemas.errors import SetupError
    from streams.cli.options import command_settings
    from streams.logs import configure_logging
    from streams.worker import PredictWorker

    unknown = set(roles.split(",")) - set(ROLES)
    if unknown:
        raise SetupError(f"no such role: {', '.join(sorted(unknown))}; roles are {', '.join(ROLES)}")
    settings = command_settings(env_file, flags)
    configure_logging(level=settings.log_level, log_format=settings.log_format)
    asyncio.run(PredictWorker(settings).run())
