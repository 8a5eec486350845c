"""Kafka, PostgreSQL and Redis in containers, with the life of those of `deploy.local`: one address, many starts."""

import os
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import testcontainers.core.config
from docker.errors import DockerException
from testcontainers.core.container import DockerContainer

from deploy.local.kafka import MAX_MESSAGE_BYTES
from deploy.local.service import HOST, free_ports
from schemas.errors import SetupError

# Ryuk needs an image of its own; here the code that starts a container removes it.
testcontainers.core.config.testcontainers_config.ryuk_disabled = True

START_SECONDS = 60.0
STOP_SECONDS = 10
_POLL_SECONDS = 0.05
# Any identifier will do: no other node reads this data.
_CLUSTER_ID = "hFJm4M1rSlKmtqCSuWkLZA"


class ContainerServer(ABC):
    """A server that starts, stops, dies, hangs and comes back on the same address, until `remove`."""

    name: ClassVar[str]
    variable: ClassVar[str]
    """Of the environment, that names the image."""
    official: ClassVar[str]
    inner_port: ClassVar[int]

    def __init__(self) -> None:
        (self.port,) = free_ports(1)
        self._starts = 0
        container: Any = DockerContainer(os.environ.get(self.variable, self.official))
        # For this machine only: the library's own method has no parameter for the address.
        container.ports[f"{self.inner_port}/tcp"] = (HOST, self.port)
        container.with_envs(**self.environment())
        command = self.command()
        self._container = container.with_command(list(command)) if command else container

    def environment(self) -> Mapping[str, str]:
        return {}

    def command(self) -> Sequence[str]:
        """Replaces the image's own; empty keeps that."""
        return ()

    @abstractmethod
    def serves(self) -> bool:
        """Whether a running server is ready."""

    def start(self) -> None:
        """Start the server and wait until it serves; raises SetupError."""
        self.launch()
        self.wait_until_ready()

    def launch(self) -> None:
        try:
            if self._starts:
                self._wrapped.start()
            else:
                self._container.start()
        except DockerException as error:
            raise SetupError(f"{self.name} cannot be started in a container: {error}") from error
        self._starts += 1

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not self.serves():
            if not self.running or time.monotonic() > deadline:
                raise SetupError(
                    f"{self.name} does not serve in its container; its log ends:\n{self._log()[-3000:]}"
                )
            time.sleep(_POLL_SECONDS)

    def stop(self) -> None:
        """End the server in order; a paused one is woken to hear it. Idempotent."""
        self.resume()
        self._wrapped.stop(timeout=STOP_SECONDS)

    def kill(self) -> None:
        """End the server as a crash would. Idempotent."""
        # The engine kills no paused one.
        self.resume()
        if self.running:
            self._wrapped.kill()

    def pause(self) -> None:
        """It hangs, its connections stay open."""
        self._wrapped.pause()

    def resume(self) -> None:
        """Idempotent."""
        self._wrapped.reload()
        if self._wrapped.status == "paused":
            self._wrapped.unpause()

    def remove(self) -> None:
        """Remove it with its data, whatever state it is in."""
        self._container.stop()

    @property
    def running(self) -> bool:
        self._wrapped.reload()
        return bool(self._wrapped.status in ("running", "paused"))

    @property
    def _wrapped(self) -> Any:
        return self._container.get_wrapped_container()

    def _log(self) -> str:
        return "".join(part.decode(errors="replace") for part in self._container.get_logs())

    def _succeeds(self, *command: str) -> bool:
        """Whether a command in the container does."""
        try:
            return bool(self._container.exec(list(command)).exit_code == 0)
        except DockerException:
            return False


class ContainerKafka(ContainerServer):
    """`bootstrap` is its address. Configured as `deploy.local.kafka` does."""

    name = "Kafka"
    variable = "KAFKA_IMAGE"
    official = "apache/kafka:4.3.1"
    inner_port = 9092

    @property
    def bootstrap(self) -> str:
        return f"{HOST}:{self.port}"

    def environment(self) -> Mapping[str, str]:
        settings = {
            "PROCESS_ROLES": "broker,controller",
            "NODE_ID": 1,
            "CONTROLLER_QUORUM_VOTERS": "1@localhost:9093",
            "CONTROLLER_LISTENER_NAMES": "CONTROLLER",
            # The broker asks itself about transactions, and cannot reach its address on this machine.
            "INTER_BROKER_LISTENER_NAME": "INTERNAL",
            "LISTENERS": f"INTERNAL://localhost:19092,HOST://:{self.inner_port},CONTROLLER://:9093",
            "ADVERTISED_LISTENERS": f"INTERNAL://localhost:19092,HOST://{HOST}:{self.port}",
            "LISTENER_SECURITY_PROTOCOL_MAP": "INTERNAL:PLAINTEXT,HOST:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "LOG_DIRS": "/var/lib/kafka/data",
            "AUTO_CREATE_TOPICS_ENABLE": "false",
            "MESSAGE_MAX_BYTES": MAX_MESSAGE_BYTES,
            "REPLICA_FETCH_MAX_BYTES": MAX_MESSAGE_BYTES,
            "OFFSETS_TOPIC_REPLICATION_FACTOR": 1,
            "TRANSACTION_STATE_LOG_REPLICATION_FACTOR": 1,
            "TRANSACTION_STATE_LOG_MIN_ISR": 1,
            "SHARE_COORDINATOR_STATE_TOPIC_REPLICATION_FACTOR": 1,
            "SHARE_COORDINATOR_STATE_TOPIC_MIN_ISR": 1,
            "GROUP_INITIAL_REBALANCE_DELAY_MS": 0,
            "BROKER_SESSION_TIMEOUT_MS": 3000,
            "BROKER_HEARTBEAT_INTERVAL_MS": 500,
            "OFFSETS_TOPIC_NUM_PARTITIONS": 4,
            "TRANSACTION_STATE_LOG_NUM_PARTITIONS": 4,
        }
        return {"CLUSTER_ID": _CLUSTER_ID} | {f"KAFKA_{name}": str(value) for name, value in settings.items()}

    def serves(self) -> bool:
        # The log goes on over its starts.
        return self._log().count("Kafka Server started") >= self._starts


class ContainerPostgres(ContainerServer):
    """`dsn` is the address of its database, with the password."""

    name = "PostgreSQL"
    variable = "POSTGRES_IMAGE"
    official = "postgres:18"
    inner_port = 5432

    def __init__(self) -> None:
        self._password = secrets.token_hex(16)
        super().__init__()

    @property
    def dsn(self) -> str:
        return self.dsn_of("headrace")

    def dsn_of(self, database: str) -> str:
        return f"postgresql://headrace:{self._password}@{HOST}:{self.port}/{database}"

    def environment(self) -> Mapping[str, str]:
        return {"POSTGRES_USER": "headrace", "POSTGRES_DB": "headrace", "POSTGRES_PASSWORD": self._password}

    def command(self) -> Sequence[str]:
        return ("postgres", "-c", "max_connections=200")

    def serves(self) -> bool:
        # By TCP: the entrypoint's temporary server listens on its socket only.
        return self._succeeds("pg_isready", "--host", "localhost", "--username", "headrace")


class ContainerRedis(ContainerServer):
    """`url` is its address."""

    name = "Redis"
    variable = "REDIS_IMAGE"
    official = "redis:8"
    inner_port = 6379

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}/0"

    def command(self) -> Sequence[str]:
        return ("redis-server", "--save", "", "--appendonly", "no")

    def serves(self) -> bool:
        return self._succeeds("redis-cli", "ping")


SERVERS: Mapping[str, type[ContainerServer]] = {
    "kafka": ContainerKafka,
    "postgres": ContainerPostgres,
    "redis": ContainerRedis,
}


class ContainerStack:
    """The three servers, started and removed together."""

    def __init__(self) -> None:
        self.kafka = ContainerKafka()
        self.postgres = ContainerPostgres()
        self.redis = ContainerRedis()

    def start(self) -> None:
        """Start all servers and wait until they serve; raises SetupError, and then none is left."""
        try:
            for server in self._servers:
                server.launch()
            for server in self._servers:
                server.wait_until_ready()
        except BaseException:  # an interruption too must leave no container behind
            self.stop()
            raise

    def stop(self) -> None:
        for server in self._servers:
            server.remove()

    @property
    def _servers(self) -> Sequence[ContainerServer]:
        return self.kafka, self.postgres, self.redis
