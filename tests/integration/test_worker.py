"""`headrace worker` from its start to its end: its requirements, its counts, its exit."""

import pytest

from deploy.local.service import free_ports
from streams.config.settings import Settings
from tests.support.stack.command import headrace
from tests.support.stack.services import MakeTopics, StackAddresses
from tests.support.worker.process import StartWorker

PARTITIONS = 4
REQUESTS = 3000


@pytest.mark.parametrize(
    "setting", ["topic_requests", "topic_responses", "topic_dead_letters", "topic_metrics"]
)
async def test_a_missing_topic_is_named(topics: MakeTopics, database: str, setting: str) -> None:
    """The worker says so at once, and does not create it."""
    settings = await topics(2, postgres_dsn=database)
    ended = await headrace(
        "worker", "--roles", "predict", settings=settings.model_copy(update={setting: "nobody-made-me"})
    )
    assert ended.code == 1
    assert "has no topic nobody-made-me" in ended.stderr


async def test_without_postgres_it_does_not_start(topics: MakeTopics) -> None:
    """It cannot load a route: exit code 3 says to try again."""
    (port,) = free_ports(1)
    settings = await topics(1, postgres_dsn=f"postgresql://u:secret@127.0.0.1:{port}/d")
    ended = await headrace("worker", "--roles", "predict", settings=settings)
    assert ended.code == 3
    assert "PostgreSQL does not answer" in ended.stderr
    assert "secret" not in ended.stderr


async def test_without_the_registrys_tables_it_says_what_to_run(
    topics: MakeTopics, stack: StackAddresses
) -> None:
    """The database of the stack itself has none."""
    ended = await headrace(
        "worker", "--roles", "predict", settings=await topics(1, postgres_dsn=stack.postgres_dsn)
    )
    assert ended.code == 1
    assert "run `headrace init`" in ended.stderr


async def test_every_bootstrap_server_counts(
    topics: MakeTopics, database: str, start_worker: StartWorker
) -> None:
    """Whichever of the list is away: each role starts by the others."""
    (port,) = free_ports(1)
    settings = await topics(1, postgres_dsn=database)
    servers = f"127.0.0.1:{port}, {settings.kafka_bootstrap}"
    settings = settings.model_copy(update={"kafka_bootstrap": servers})
    for worker in [start_worker(settings, role) for role in ("predict", "control")]:
        await worker.ready()


async def test_without_kafka_it_does_not_start(database: str) -> None:
    """Exit code 3, and the address that was tried."""
    (port,) = free_ports(1)
    settings = Settings.model_validate({"kafka_bootstrap": f"127.0.0.1:{port}", "postgres_dsn": database})
    ended = await headrace("worker", "--roles", "predict", settings=settings)
    assert ended.code == 3
    assert f"Kafka at 127.0.0.1:{port}" in ended.stderr
