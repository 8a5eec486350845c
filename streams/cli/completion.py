"""Completion of model and version names in the shell, read from the registry.

The shell runs `headrace` for each completion. What goes wrong then completes nothing and prints nothing: a message would
stand in the line that the user types.
"""

from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from registry.postgres import Database

TIMEOUT_SECONDS = 1.0


def complete_models(context: typer.Context) -> Sequence[str]:
    """The names of all models; typer keeps those that begin with what is typed."""
    from registry.names import model_names

    return _from_registry(context, model_names)


def complete_versions(context: typer.Context) -> Sequence[str]:
    """The versions of the model that the line names."""
    from registry.names import version_names

    # Arguments before an option that still lacks its value are not assigned to their names.
    model_name = context.params.get("model_name") or next(iter(context.args), None)
    if not isinstance(model_name, str):
        return ()
    return _from_registry(context, lambda database: version_names(database, model_name))


def complete_weights(context: typer.Context) -> Sequence[str]:
    """The versions of the model that the line names, each with the sign before its weight."""
    return [f"{version}=" for version in complete_versions(context)]


def _from_registry(
    context: typer.Context, call: "Callable[[Database], Coroutine[Any, Any, list[str]]]"
) -> Sequence[str]:
    import asyncio
    import logging

    from registry.postgres import Database
    from schemas.errors import HeadraceError
    from streams.config.sources import load_settings

    async def ask(dsn: str) -> list[str]:
        database = await Database.connect(
            dsn, connect_timeout_seconds=TIMEOUT_SECONDS, command_timeout_seconds=TIMEOUT_SECONDS
        )
        try:
            return await call(database)
        finally:
            await database.close()

    logging.disable()
    try:
        settings = load_settings(context.params.get("env_file"), context.params.get("flags") or ()).settings
        return asyncio.run(ask(settings.postgres_dsn.get_secret_value()))
    except HeadraceError:
        return ()
