"""One real stack for the whole run; each test has topics, a database and a consumer group of its own.

The stack starts when a collected test needs it and ends with the run. Under xdist the controlling
process starts it and the workers read its addresses from a file, so it outlives each of them.
"""

import asyncio
import gc
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from inspect import iscoroutinefunction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from deploy.local.kafka import Kafka
from deploy.local.redis import Redis
from schemas.errors import HeadraceError
from tests.support.deadline import wait_until
from tests.support.stack.certificates import Certificates, make_certificates
from tests.support.stack.java import start_java_fast
from tests.support.stack.services import (
    MakeTopics,
    RunStack,
    StackAddresses,
    own_database,
    own_server,
    own_topics,
)
from tests.support.worker.prediction_rows import DAY, midnight
from tests.support.worker.process import StartWorker, worker_processes

RUN = pytest.StashKey[RunStack]()
_HERE = Path(__file__).parent
# As long as a test that a day matters to may take.
ONE_TEST_SECONDS = 60.0

# The time of an example depends on the machine's load. In CI the examples are always the same;
# elsewhere each run looks for new ones.
settings.register_profile(
    "headrace",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize="CI" in os.environ,
)
settings.load_profile("headrace")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--stack",
        choices=("processes", "containers"),
        default="processes",
        help="what Kafka, PostgreSQL and Redis are (containers want an engine and images: make test-containers)",
    )


def pytest_configure(config: pytest.Config) -> None:
    # A shell starts background jobs with SIGINT ignored, which the processes of tests would inherit.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    handed: dict[str, Any] | None = getattr(config, "workerinput", None)
    folder = Path(handed["stack_folder"]) if handed else Path(tempfile.mkdtemp(prefix="headrace-tests-"))
    in_containers = config.getoption("stack") == "containers"
    config.stash[RUN] = RunStack(folder, controls=handed is None, in_containers=in_containers)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    node.workerinput["stack_folder"] = str(node.config.stash[RUN].folder)


@pytest.fixture(autouse=True)
def no_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that leaves a connection open fails itself, and not the test in which the connection is collected.

    It is the first fixture of a test, so it ends after the others have closed what they opened. Unit tests open no
    connections, and 5 ms are long for them.
    """
    opens_connections = request.path.relative_to(_HERE).parts[0] not in {"unit", "simulation"}
    if opens_connections and iscoroutinefunction(getattr(request, "function", None)):
        request.getfixturevalue("closed_connections")
    yield
    if opens_connections:
        gc.collect()


@pytest.fixture
async def closed_connections() -> AsyncIterator[None]:
    """Wait until the connections of the test are closed, before its event loop is.

    A client closes a connection without a wait for it: aiokafka one that is refused in its handshake, and every
    client one over TLS, whose end is a message of the server. A loop that is closed earlier leaves them open.
    """
    yield
    # Private, but nothing public lists the connections of a loop; the pinned Pythons have it.
    transports = asyncio.get_running_loop()._transports  # type: ignore[attr-defined]

    async def all_closed() -> bool:
        return all(transport._sock is None for transport in list(transports.values()))

    await wait_until(all_closed, "the connections of the test are closed")


@pytest.fixture(autouse=True, scope="module")
def no_leaks_of_a_module() -> Iterator[None]:
    """The same for the fixtures of a module: its last test fails."""
    yield
    gc.collect()


# It runs before xdist's hook, which reports to the controller that this worker has collected.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    if any("stack" in getattr(item, "fixturenames", ()) for item in session.items):
        session.config.stash[RUN].wanted.touch()
    _start_if_wanted(session.config)
    # Modules and tests live as long as the run. Without them a garbage collection takes a few milliseconds.
    gc.collect()
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_node_collection_finished(node: Any) -> None:
    # Tests are handed out when every worker has collected: the stack is there before the first.
    _start_if_wanted(node.config)


def pytest_unconfigure(config: pytest.Config) -> None:
    config.stash[RUN].end()


def _start_if_wanted(config: pytest.Config) -> None:
    run = config.stash[RUN]
    if not run.controls or not run.wanted.exists() or config.option.collectonly:
        return
    try:
        run.start(lambda step: config.get_terminal_writer().line(f"stack: {step}"))
    except HeadraceError as error:
        pytest.exit(f"the stack does not start: {error}", returncode=1)


@pytest.fixture(scope="session")
def fast_java(pytestconfig: pytest.Config) -> None:
    """Kafkas that tests start themselves start in a third of the time."""
    if not pytestconfig.stash[RUN].in_containers:
        start_java_fast(lambda _: None)


@pytest.fixture(scope="session")
def stack(pytestconfig: pytest.Config) -> StackAddresses:
    """The addresses of the run's Kafka, PostgreSQL and Redis."""
    return pytestconfig.stash[RUN].addresses()


@pytest.fixture
async def database(stack: StackAddresses) -> AsyncIterator[str]:
    """The DSN of a database of the test's own, with all migrations applied."""
    async with own_database(stack) as dsn:
        yield dsn


@pytest.fixture
async def topics(stack: StackAddresses) -> AsyncIterator[MakeTopics]:
    """A function that creates topics of the test's own: call it with `partitions=` and any further settings.

    It returns Settings with the topics' names, a group of their own and the stack's addresses.
    """
    async with own_topics(stack) as make:
        yield make


@pytest.fixture
async def one_day() -> None:
    """The day does not change under a test: in its last minute the next one is waited for."""
    left_seconds = (midnight() + DAY - datetime.now(UTC)).total_seconds()
    if left_seconds < ONE_TEST_SECONDS:
        await asyncio.sleep(left_seconds)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """A certificate authority with certificates for this machine; the test is skipped without `openssl`."""
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def start_worker() -> Iterator[StartWorker]:
    """Starts `headrace worker` processes, which end with the test; a failure shows their logs."""
    with worker_processes() as start:
        yield start


@pytest.fixture
def in_containers(pytestconfig: pytest.Config) -> bool:
    """Whether servers are containers."""
    return pytestconfig.stash[RUN].in_containers


@pytest.fixture
def own_redis(in_containers: bool, tmp_path: Path) -> Iterator[Redis]:
    """A Redis of the test's own, to stop, kill, pause and start again on the same `url`."""
    with own_server("redis", tmp_path / "redis", in_containers=in_containers) as server:
        yield server


@pytest.fixture
def redis_url(own_redis: Redis) -> str:
    """The address of an empty Redis of the test's own: no other test uses its keys and channels."""
    return own_redis.url


@pytest.fixture
def own_kafka(in_containers: bool, tmp_path: Path, fast_java: None) -> Iterator[Kafka]:
    """A Kafka of the test's own without topics, to stop, kill, pause and start again. Takes 2 s."""
    with own_server("kafka", tmp_path / "kafka", in_containers=in_containers) as server:
        yield server
