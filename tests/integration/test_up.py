"""`headrace up` as a user runs it: a process, its output, its signals."""

import fcntl
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import psutil
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from redis import asyncio as redis

from deploy.local.stack import LocalStack
from streams.config.settings import Settings
from streams.config.sources import combine, parse_env_file
from streams.kafka.topics import plan_topics
from tests.support.deadline import DEADLINE_SECONDS
from tests.support.stack.command import HEADRACE

T = TypeVar("T")

pytestmark = pytest.mark.usefixtures("fast_java")


class Up:
    """A running `headrace up`, whose output arrives line by line."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.output: list[str] = []
        self.process = subprocess.Popen(
            [HEADRACE, "up", "--data-dir", data_dir],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")},
        )
        assert self.process.stdout is not None
        self._stdout = self.process.stdout

    def wait_for(self, text: str) -> None:
        """Read until a line has `text`; fails with all output if the process ends before."""
        for line in self._stdout:
            self.output.append(line)
            if text in line:
                return
        pytest.fail(f"`headrace up` ended before {text!r}:\n{''.join(self.output)}")

    def wait_for_end(self) -> int:
        """Read the rest of the output and return the exit code."""
        self.output.extend(self._stdout)
        return self.process.wait(DEADLINE_SECONDS)

    def close(self) -> None:
        self.process.kill()
        self.process.wait(DEADLINE_SECONDS)
        self._stdout.close()

    def family(self) -> list[psutil.Process]:
        children: list[psutil.Process] = psutil.Process(self.process.pid).children(recursive=True)
        return children


@pytest.fixture
def start_up(tmp_path: Path) -> Iterator[Callable[[], Up]]:
    """Start `headrace up` on the test's folder; what still runs at the end is killed."""
    started: list[Up] = []

    def start() -> Up:
        started.append(Up(tmp_path / "data"))
        return started[-1]

    yield start
    for up in started:
        up.close()


def assert_nothing_left(data_dir: Path, family: list[psutil.Process]) -> None:
    """Wait until no process holds the folder's lock, which every process of a stack inherits."""
    with (data_dir / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
    _, alive = psutil.wait_procs(family, timeout=DEADLINE_SECONDS)
    assert alive == []


async def test_up_serves_until_it_is_told_to_end(start_up: Callable[[], Up]) -> None:
    """The env file leads to three services with topics and tables; SIGTERM takes all of them down."""
    up = start_up()
    up.wait_for("ready")
    assert up.output[-1] == "ready\n"
    env_file = up.data_dir / "env"
    assert env_file.stat().st_mode & 0o777 == 0o600
    settings = settings_of(env_file)
    await assert_services_answer(settings)

    family = up.family()
    assert {"java", "redis-server", "postgres"} <= set(asked(family, lambda process: process.name()))
    assert all(
        connection.laddr.ip.removeprefix("::ffff:") == "127.0.0.1"
        for connections in asked(family, lambda process: process.net_connections("tcp"))
        for connection in connections
        if connection.status == psutil.CONN_LISTEN
    )

    second = start_up()
    assert second.wait_for_end() == 1
    assert f"is already running on {up.data_dir} (process {up.process.pid})" in "".join(second.output)

    up.process.send_signal(signal.SIGTERM)
    assert up.wait_for_end() == 0
    assert not env_file.exists()
    assert_nothing_left(up.data_dir, family)


def test_sigint_ends_up_when_it_is_ready(start_up: Callable[[], Up]) -> None:
    """Ctrl-C is the ordinary end: the exit code is 0, and no process is left."""
    up = start_up()
    up.wait_for("ready")
    family = up.family()
    up.process.send_signal(signal.SIGINT)
    assert up.wait_for_end() == 0
    assert_nothing_left(up.data_dir, family)


def asked(family: list[psutil.Process], question: Callable[[psutil.Process], T]) -> list[T]:
    """The answers of those that run; PostgreSQL's end a moment after their connections."""
    answers = []
    for process in family:
        with suppress(psutil.NoSuchProcess):
            answers.append(question(process))
    return answers


def settings_of(env_file: Path) -> Settings:
    lines = parse_env_file(env_file.read_text(), str(env_file))
    return combine(flags={}, environment={}, env_file=lines).settings


async def assert_services_answer(settings: Settings) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap)
    await admin.start()
    try:
        plans = plan_topics(settings, 4)
        described = await admin.describe_topics([plan.name for plan in plans])
    finally:
        await admin.close()
    assert {topic["topic"]: len(topic["partitions"]) for topic in described} == {
        plan.name: plan.partitions for plan in plans
    }
    connection = await asyncpg.connect(settings.postgres_dsn.get_secret_value())
    try:
        assert await connection.fetchval("SELECT to_regclass('model_versions') IS NOT NULL")
    finally:
        await connection.close()
    client = redis.Redis.from_url(settings.redis_url.get_secret_value())
    try:
        assert await client.ping()
    finally:
        await client.aclose()


@pytest.mark.parametrize(
    ("step", "number"),
    [
        ("formatting Kafka", signal.SIGKILL),
        ("formatting Kafka", signal.SIGINT),
        ("starting Redis", signal.SIGTERM),
    ],
)
def test_ended_half_way_it_leaves_no_process(
    start_up: Callable[[], Up], step: str, number: signal.Signals
) -> None:
    """However `up` ends while it is starting, its servers and tools end with it."""
    up = start_up()
    up.wait_for(step)
    family = children_of(up)
    up.process.send_signal(number)
    assert up.wait_for_end() != 0
    assert_nothing_left(up.data_dir, family)


def children_of(up: Up) -> list[psutil.Process]:
    """The processes that `up` has started; it prints the step just before it starts one of them."""
    while up.process.poll() is None:
        family = up.family()
        if family:
            return family
    pytest.fail("`headrace up` ended by itself")


def test_a_killed_up_is_followed_by_another_that_ends_with_a_server(start_up: Callable[[], Up]) -> None:
    """Neither the lock nor half-made data nor servers of a killed `up` stop the next one on the folder.

    When one of its servers dies, `up` names it, ends the others, and fails.
    """
    first = start_up()
    first.wait_for("starting Redis")
    first.process.kill()
    second = start_up()
    second.wait_for("ready")
    family = second.family()
    names = asked(family, lambda process: (process.name(), process))
    next(process for name, process in names if name == "redis-server").kill()
    assert second.wait_for_end() == 1
    assert "Redis ended unexpectedly" in "".join(second.output)
    assert_nothing_left(second.data_dir, family)


async def test_a_stack_and_its_servers_start_again_with_their_data(tmp_path: Path) -> None:
    """Killed servers start again on their addresses, and a stopped stack on others; topics and rows are there.

    The folder's name is one that a careless configuration file would cut or garble.
    """
    data_dir = tmp_path / "dä ta, 1"
    with LocalStack(data_dir) as stack:
        await write_something(stack)
        cluster_before = await cluster_of(stack)
        addresses = stack.kafka_bootstrap, stack.postgres_dsn
        stack.kafka.kill()
        stack.postgres.kill()
        assert stack.ended() == ["Kafka", "PostgreSQL"]
        stack.kafka.start()
        stack.postgres.start()
        assert stack.ended() == []
        assert (stack.kafka_bootstrap, stack.postgres_dsn) == addresses
        assert await kept(stack) == (cluster_before, [(7,)], b"before")
    with LocalStack(data_dir) as stack:
        assert await kept(stack) == (cluster_before, [(7,)], b"before")


async def kept(stack: LocalStack) -> tuple[Any, list[tuple[int]], bytes]:
    """The cluster with its topics, the rows, and the first record."""
    connection = await asyncpg.connect(stack.postgres_dsn)
    try:
        rows: list[tuple[int]] = await connection.fetch("SELECT n FROM kept")
    finally:
        await connection.close()
    consumer = AIOKafkaConsumer("kept", bootstrap_servers=stack.kafka_bootstrap, auto_offset_reset="earliest")
    async with consumer:
        return await cluster_of(stack), rows, (await consumer.getone()).value


async def write_something(stack: LocalStack) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=stack.kafka_bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic("kept", 3, 1)])
    finally:
        await admin.close()
    async with AIOKafkaProducer(bootstrap_servers=stack.kafka_bootstrap, acks="all") as producer:
        await producer.send_and_wait("kept", b"before")
    connection = await asyncpg.connect(stack.postgres_dsn)
    try:
        await connection.execute("CREATE TABLE kept AS SELECT 7 AS n")
    finally:
        await connection.close()


async def cluster_of(stack: LocalStack) -> tuple[str, list[str]]:
    admin = AIOKafkaAdminClient(bootstrap_servers=stack.kafka_bootstrap)
    await admin.start()
    try:
        cluster = await admin.describe_cluster()
        return cluster["cluster_id"], await admin.list_topics()
    finally:
        await admin.close()


def run_up(data_dir: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [HEADRACE, "up", "--data-dir", data_dir],
        env={"HOME": str(data_dir), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE_SECONDS,
    )


def test_missing_java_is_named_with_what_to_install(tmp_path: Path) -> None:
    """Without Java the message names the package, the exit code is 1 and nothing is left."""
    empty = tmp_path / "bin"
    empty.mkdir()
    ended = run_up(tmp_path / "data", PATH=str(empty))
    assert ended.returncode == 1
    assert "Java is not installed; install a Java runtime of version 17 or newer" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert_nothing_left(tmp_path / "data", [])


def test_old_java_is_refused(tmp_path: Path) -> None:
    """A Java that Kafka cannot run on is named with its version."""
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_text("#!/bin/sh\necho 'openjdk version \"1.8.0_402\"' >&2\n")
    java.chmod(0o755)
    ended = run_up(tmp_path / "data", PATH=f"{java.parent}:/bin", JAVA_HOME=str(tmp_path))
    assert ended.returncode == 1
    assert f"{java} is Java 8; install" in ended.stderr


def test_missing_maven_is_named_when_it_is_needed(tmp_path: Path) -> None:
    """Java is there, the jars are not: Maven is asked for."""
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_text("#!/bin/sh\necho 'openjdk version \"21.0.1\"' >&2\n")
    java.chmod(0o755)
    ended = run_up(tmp_path / "data", PATH=str(java.parent), XDG_CACHE_HOME=str(tmp_path / "cache"))
    assert ended.returncode == 1
    assert "Apache Maven (`mvn`) is not on PATH" in ended.stderr
