"""`headrace init`: create what a worker needs in Kafka and PostgreSQL."""

from streams.cli.options import DEFAULT_PARTITIONS, EnvFile, Partitions, SetFlags, command_settings


def init(
    *, partitions: Partitions = DEFAULT_PARTITIONS, env_file: EnvFile = None, flags: SetFlags = None
) -> None:
    """Create the topics and the registry's tables.

    Needs running services. Safe to repeat: what exists stays as it is.
    """
    import asyncio

    from streams.setup import prepare_services

    settings = command_settings(env_file, flags)
    asyncio.run(prepare_services(settings, partitions, print))
    print("ready")
