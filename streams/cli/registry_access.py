"""Reading the registry: connections for one call, and the error for an unknown model."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

if TYPE_CHECKING:
    from registry.postgres import Database
    from registry.snapshot import RegisteredModel
    from schemas.errors import UnknownModelError
    from streams.config.settings import Settings

T = TypeVar("T")

Model = Annotated[str, typer.Argument(metavar="MODEL", help="The model's name.")]


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
        raise unknown_model(model_name)
    return model


def unknown_model(model_name: str) -> "UnknownModelError":
    """The error for a name that is not registered."""
    from schemas.errors import UnknownModelError

    return UnknownModelError(
        f"there is no model {model_name}; check the name, or `headrace register` its first version"
    )
