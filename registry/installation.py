"""The identity of an installation, made by a migration.

A registry made anew has another identity. A registry restored from a backup, or copied, keeps it.
"""

from dataclasses import dataclass, field

from registry.postgres import Database

_READ = "SELECT installation_id, cache_secret FROM installation"


@dataclass(frozen=True, slots=True)
class Installation:
    """`installation_id` is 16 hexadecimal digits; `cache_secret` authenticates cached values and is never shown."""

    installation_id: str
    cache_secret: bytes = field(repr=False)

    @property
    def hint_channel(self) -> str:
        """The Redis channel of this installation's hints."""
        return f"headrace:{self.installation_id}:routes"

    @property
    def cache_namespace(self) -> bytes:
        """The beginning of the Redis keys of this installation's cached predictions."""
        return f"headrace:{self.installation_id}:pred:".encode()


async def read_installation(database: Database) -> Installation:
    """The identity of the registry's installation; raises RegistryUnavailableError and SetupError."""
    async with database.connection() as connection:
        row = await connection.fetchrow(_READ)
    return Installation(row["installation_id"], row["cache_secret"])
