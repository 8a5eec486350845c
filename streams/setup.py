"""Prepare Kafka and PostgreSQL before the first worker starts: topics and tables."""

from collections.abc import Callable

from registry.migrate import migrate
from streams.config.settings import Settings
from streams.kafka.topics import create_topics, report_lines


async def prepare_services(
    settings: Settings, report: Callable[[str], None], *, partitions: int | None = None
) -> None:
    """Create the missing topics and tables, and add partitions up to `partitions`; `report` is called with each step.

    Without `partitions` topics that exist keep theirs. Safe to repeat.
    Raises SetupError, BrokerUnavailableError, RegistryUnavailableError.
    """
    report("creating topics")
    for line in report_lines(settings, await create_topics(settings, partitions), partitions):
        report(line)
    report("applying migrations")
    await migrate(settings.postgres_dsn.get_secret_value())
