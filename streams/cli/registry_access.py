"""Reading the registry: connections for one call, and the errors for names that it does not have."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, NoReturn, TypeVar

import typer

from streams.cli.completion import complete_models

if TYPE_CHECKING:
    from registry.postgres import Database
    from registry.snapshot import RegisteredModel
    from streams.config.settings import Settings

T = TypeVar("T")

Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="The model's name.", autocompletion=complete_models)
]
OptionalModel = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL",
        help="The model's name; without it, all models.",
        show_default=False,
        autocompletion=complete_models,
    ),
]


async def with_database(settings: "Settings", call: "Callable[[Database], Awaitable[T]]") -> T:
    """Open the database, call, and close it. Raises RegistryUnavailableError."""
    from registry.postgres import Database

    database = await Database.connect(settings.postgres_dsn.get_secret_value())
    try:
        return await call(database)
    finally:
        await database.close()


async def registered(database: "Database", model_name: str) -> "RegisteredModel":
    """The current state of a model; raises UnknownModelError."""
    from registry.store import RegistryStore

    model = await RegistryStore(database).find(model_name)
    if model is None:
        await refuse_unknown(database, model_name)
    return model


async def refuse_unknown(database: "Database", model_name: str) -> NoReturn:
    """Raise UnknownModelError, with the nearest name that is registered."""
    from registry.names import unknown_model
    from schemas.errors import UnknownModelError

    async with database.connection() as connection:
        raise UnknownModelError(await unknown_model(connection, model_name))
