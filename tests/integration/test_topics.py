"""Topics and tables as `headrace init` makes them on services that run."""

import asyncio
import os
import subprocess
import uuid
from pathlib import Path

import asyncpg
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import NewPartitions

from deploy.local.kafka import Kafka
from schemas.errors import BrokerUnavailableError, SetupError
from streams.config.settings import Settings
from streams.kafka.topics import administration, create_topics, plan_topics
from tests.support.deadline import wait_until
from tests.support.stack.command import HEADRACE, headrace
from tests.support.stack.services import MakeTopics, StackAddresses


async def test_records_over_the_limit_reach_us_and_their_dead_letters_fit(topics: MakeTopics) -> None:
    """Kafka takes a request of 1 MiB + 1, and a dead letter of it with large headers."""
    settings = await topics(partitions=1)
    value = os.urandom(settings.max_record_bytes + 1)
    producer = AIOKafkaProducer(
        bootstrap_servers=settings.kafka_bootstrap, max_request_size=4 * settings.max_record_bytes
    )
    async with producer:
        await producer.send_and_wait(settings.topic_requests, value)
        await producer.send_and_wait(settings.topic_dead_letters, value, headers=[("x", value[:500_000])])
    consumer = AIOKafkaConsumer(
        settings.topic_requests, bootstrap_servers=settings.kafka_bootstrap, auto_offset_reset="earliest"
    )
    async with consumer:
        assert (await consumer.getone()).value == value


async def test_creation_is_safe_to_repeat(topics: MakeTopics) -> None:
    """Existing topics keep their partitions, and the printed counts are the real ones."""
    settings = await topics(partitions=2)
    counts = (await create_topics(settings)).counts
    assert counts[settings.topic_requests] == counts[settings.topic_responses] == 2
    assert counts[settings.topic_promotions] == 1
    assert len(counts) == 8


async def test_fewer_responses_than_requests_are_told_and_mended(topics: MakeTopics) -> None:
    """Some responses could not go to their request's partition: the error says by which command they can."""
    settings = await topics(partitions=2)
    async with administration(settings) as admin:
        await admin.create_partitions({settings.topic_requests: NewPartitions(5)})

        # The broker describes them a moment after it has agreed to them.
        async def described() -> bool:
            return len((await admin.describe_topics([settings.topic_requests]))[0]["partitions"]) == 5

        await wait_until(described, "the new partitions")
    with pytest.raises(SetupError, match=r"has 5 partitions and .* has 2; .*`headrace init --partitions 5`"):
        await create_topics(settings)
    counts = (await create_topics(settings, 3)).counts
    assert {counts[plan.name] for plan in plan_topics(settings, 3) if plan.partitions == 3} == {5}
    assert counts[settings.topic_promotions] == 1


async def test_a_new_topic_gets_as_many_partitions_as_the_requests_have(topics: MakeTopics) -> None:
    """It is of a later release, or was deleted."""
    settings = await topics(partitions=2)
    async with administration(settings) as admin:
        await admin.delete_topics([settings.topic_responses])

        async def gone() -> bool:
            return bool((await admin.describe_topics([settings.topic_responses]))[0]["error_code"])

        await wait_until(gone, "the end of the topic")
    assert (await create_topics(settings)).counts[settings.topic_responses] == 2


async def test_a_name_that_kafka_refuses_is_told(topics: MakeTopics) -> None:
    """Kafka's reason is in the error."""
    settings = await topics()
    with pytest.raises(SetupError, match=r"refuses the topic a b: "):
        await create_topics(settings.model_copy(update={"topic_alerts": "a b"}), 4)


class CreatingKafka(Kafka):
    """A broker that creates the topics that it is asked about, as many do."""

    def _configure(self, data: str, broker_port: int, controller_port: int) -> None:
        super()._configure(data, broker_port, controller_port)
        properties = self.directory / "server.properties"
        properties.write_text(
            properties.read_text().replace(
                "auto.create.topics.enable=false", "auto.create.topics.enable=true"
            )
        )


async def test_a_question_about_a_topic_creates_none(tmp_path: Path, database: str) -> None:
    """A command before `headrace init`, or one with a misspelt name, finds no topic and leaves none behind."""
    broker = CreatingKafka(tmp_path / "kafka", None, lambda _: None)
    broker.prepare()
    await asyncio.to_thread(broker.start)
    try:
        settings = Settings.model_validate({"kafka_bootstrap": broker.bootstrap, "postgres_dsn": database})
        for command in (
            ("worker", "--roles", "predict"),
            ("predict", "m", "--user", "u", "--input", "{}"),
            ("top", "--once"),
        ):
            ended = await headrace(*command, settings=settings)
            assert ended.code == 1, (command, ended)
            assert "has no topic" in ended.stderr
        async with administration(settings) as admin:
            assert [name for name in await admin.list_topics() if not name.startswith("__")] == []
    finally:
        broker.kill()


async def test_no_kafka_is_a_broker_that_is_unavailable() -> None:
    """The error has the address that was tried."""
    with pytest.raises(BrokerUnavailableError, match=r"127\.0\.0\.1:1"):
        await create_topics(Settings(kafka_bootstrap="127.0.0.1:1"), 4)


async def test_init_prepares_running_services_and_may_run_again(stack: StackAddresses) -> None:
    """On an empty database and new topic names: tables and topics, twice with the same end."""
    mark = uuid.uuid4().hex
    connection = await asyncpg.connect(stack.postgres_dsn)
    await connection.execute(f"CREATE DATABASE init_{mark}")
    await connection.close()
    dsn = f"{stack.postgres_dsn.rpartition('/')[0]}/init_{mark}"
    names = [name for name in Settings.model_fields if name.startswith("topic_")]
    environment = {
        "PATH": os.environ["PATH"],
        "HEADRACE_KAFKA_BOOTSTRAP": stack.kafka_bootstrap,
        "HEADRACE_POSTGRES_DSN": dsn,
        **{f"HEADRACE_{name.upper()}": f"{name}-{mark}" for name in names},
    }
    told = []
    for partitions in ("2", "3", "2"):
        ended = await asyncio.to_thread(
            subprocess.run,
            [HEADRACE, "init", "--partitions", partitions],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert (ended.returncode, ended.stdout.splitlines()[-1]) == (0, "ready"), ended.stderr
        told.append(ended.stdout)
    assert "partitions" not in told[0]
    for name in ("requests", "responses", "dead_letters", "outcomes", "metrics"):
        assert f"topic_{name}-{mark} had 2 partitions and has 3 now" in told[1]
        assert f"topic_{name}-{mark} keeps its 3 partitions" in told[2]
    assert told[1].count("had 2") == 5
    connection = await asyncpg.connect(dsn)
    try:
        assert await connection.fetchval("SELECT to_regclass('model_versions') IS NOT NULL")
    finally:
        await connection.close()
