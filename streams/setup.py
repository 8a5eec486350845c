"""Prepare Kafka and PostgreSQL before the first worker starts: topics and tables."""

from collections.abc import Callable

from registry.migrate import migrate
from streams.config.settings import Settings
from streams.kafka.topics import create_topics


async def prepare_services(settings: Settings, partitions: int, report: Callable[[str], None]) -> None:
    """Create the missing topics and tables; `report` is called with each step.

    A topic that exists keeps its number of partitions. Safe to repeat.
    Raises SetupError, BrokerUnavailableError, RegistryUnavailableError.
    """
    report("creating topics")
    existing = (await create_topics(settings, partitions))[settings.topic_requests]
    if existing != partitions:
        report(f"{settings.topic_requests} was there before and keeps its partitions: {existing}")
    report("applying migrations")
    await migrate(settings.postgres_dsn.get_secret_value())
