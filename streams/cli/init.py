"""`headrace init`: what Kafka and PostgreSQL must have before a worker starts."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from streams.cli.options import EnvFile, SetFlags

if TYPE_CHECKING:
    from streams.config.settings import Settings

Partitions = Annotated[
    int,
    typer.Option(min=1, help="Partitions of the topics with traffic; topics that are there keep theirs."),
]
DEFAULT_PARTITIONS = 4


def init(
    *, partitions: Partitions = DEFAULT_PARTITIONS, env_file: EnvFile = None, flags: SetFlags = None
) -> None:
    """Create the topics and the registry's tables on running services. Safe to repeat."""
    import asyncio

    from streams.cli.options import command_settings

    settings = command_settings(env_file, flags)
    asyncio.run(prepare_services(settings, partitions, print))
    print("ready")


async def prepare_services(settings: "Settings", partitions: int, report: Callable[[str], None]) -> None:
    """Create topics and tables that are not there, telling each step.

    Raises SetupError, BrokerUnavailableError, RegistryUnavailableError.
    """
    from registry.migrate import migrate
    from streams.kafka.topics import create_topics

    report("creating topics")
    held = (await create_topics(settings, partitions))[settings.topic_requests]
    if held != partitions:
        report(f"{settings.topic_requests} was there before and keeps its partitions: {held}")
    report("applying migrations")
    await migrate(settings.postgres_dsn.get_secret_value())
