"""The names in the registry: for messages about unknown ones, for lists, and for completion in the shell."""

import asyncpg

from registry.postgres import Database
from schemas.near_names import MAX_NAMES_COMPARED, suggestion

_MODELS = "SELECT model_name FROM models ORDER BY model_name"
_VERSIONS = "SELECT version FROM model_versions WHERE model_name = $1 ORDER BY ordinal"
# A name with a typing error is hardly longer or shorter.
_MODELS_OF_LENGTH = """
    SELECT model_name FROM models WHERE length(model_name) BETWEEN length($1) - 3 AND length($1) + 3
    ORDER BY model_name LIMIT $2
"""


async def model_names(database: Database) -> list[str]:
    """All models, in alphabetical order. Raises RegistryUnavailableError and SetupError."""
    async with database.connection() as connection:
        rows = await connection.fetch(_MODELS)
    return [row["model_name"] for row in rows]


async def version_names(database: Database, model_name: str) -> list[str]:
    """All versions of a model, oldest first; none for an unknown model. Raises as `model_names`."""
    async with database.connection() as connection:
        rows = await connection.fetch(_VERSIONS, model_name)
    return [row["version"] for row in rows]


async def unknown_model(connection: asyncpg.Connection, model_name: str) -> str:
    """The message for a model that is not registered, with the nearest name that is."""
    rows = await connection.fetch(_MODELS_OF_LENGTH, model_name, MAX_NAMES_COMPARED)
    near = suggestion(model_name, [row["model_name"] for row in rows], "headrace models")
    return f"there is no model {model_name}{near}"
