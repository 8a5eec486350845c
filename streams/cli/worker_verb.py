"""`headrace worker`: run a worker, with several roles under a supervisor. (`streams/worker.py` is one role's process.)"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from streams.cli.options import EnvFile, SetFlags

if TYPE_CHECKING:
    from streams.config.settings import Settings


def worker(
    *,
    roles: Annotated[
        str, typer.Option(metavar="ROLES", help="Its roles, comma-separated: predict, control, monitor, log.")
    ] = "predict,control,monitor",
    processes: Annotated[
        int,
        typer.Option(
            min=1, metavar="COUNT", help="Number of processes of the role predict, and of the role log."
        ),
    ] = 1,
    supervised: Annotated[bool, typer.Option("--supervised", hidden=True)] = False,
    env_file: EnvFile = None,
    flags: SetFlags = None,
) -> None:
    """Run a worker until SIGTERM or Ctrl-C.

    After the signal the worker answers the requests in flight and exits with 0. If that takes longer than
    HEADRACE_SHUTDOWN_SECONDS, it exits with 75.

    Roles: predict answers requests; control decides promotions, in one worker at a time; monitor adds up the
    metrics of all workers for `headrace metrics`, and alerts; log writes each response to the table
    prediction_log. Each of several roles has a process of its own, which a supervisor restarts when it ends.
    """
    from schemas.errors import SetupError
    from schemas.near_names import suggestion
    from streams.cli.options import command_settings
    from streams.process.logs import configure_logging
    from streams.roles import ROLES

    settings = command_settings(env_file, flags)
    configure_logging(level=settings.log_level, log_format=settings.log_format)
    wanted = list(dict.fromkeys(role.strip() for role in roles.split(",") if role.strip()))
    unknown = [role for role in wanted if role not in ROLES]
    if unknown or not wanted:
        near = suggestion(unknown[0], ROLES) if unknown else ""
        raise SetupError(
            f"no such role: {', '.join(unknown) or 'none named'}; roles are {', '.join(ROLES)}{near}"
        )
    if processes == 1 and len(wanted) == 1:
        _work(settings, wanted[0], supervised=supervised)
    else:
        named = [] if env_file is None else [f"--env-file={env_file}"]
        _supervise(settings, wanted, [*named, *(f"--set={flag}" for flag in flags or ())], processes)


def _work(settings: "Settings", role: str, *, supervised: bool) -> None:
    import asyncio

    from streams.worker import Worker

    asyncio.run(Worker(settings, role, supervised=supervised).run())


def _supervise(settings: "Settings", roles: Sequence[str], arguments: Sequence[str], processes: int) -> None:
    import asyncio

    from streams.supervisor import Supervisor

    raise typer.Exit(asyncio.run(Supervisor(settings, roles, arguments, processes=processes).run()))
