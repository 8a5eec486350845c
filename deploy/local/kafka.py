"""A single Kafka node in KRaft mode, broker and controller in one process."""

import secrets
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from deploy.local.java import fetch_jars, find_java
from deploy.local.service import HOST, Service

# Larger than the limits of the topics, so that these apply.
MAX_MESSAGE_BYTES = 5 * 1024 * 1024
_PROPERTIES = "server.properties"
# Warnings, and the line that reports readiness; the other levels log thousands of lines at a start.
_LOGGING = (
    "showDateTime=true",
    "dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSXXX",
    "defaultLogLevel=warn",
    "log.kafka.server.KafkaRaftServer=info",
)


def server_properties(data: str, broker_port: int, controller_port: int) -> str:
    """The node's configuration. Ports may differ between starts on the same data.

    `data` is relative to the node's working folder: Kafka splits the setting at commas and misreads
    characters beyond ASCII.
    """
    settings = {
        "process.roles": "broker,controller",
        "node.id": 1,
        "controller.quorum.voters": f"1@{HOST}:{controller_port}",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "BROKER",
        "listeners": f"BROKER://{HOST}:{broker_port},CONTROLLER://{HOST}:{controller_port}",
        "listener.security.protocol.map": "BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "log.dirs": data,
        "auto.create.topics.enable": "false",
        "message.max.bytes": MAX_MESSAGE_BYTES,
        "replica.fetch.max.bytes": MAX_MESSAGE_BYTES,
        # One node: no replication, and no wait for other members.
        "offsets.topic.replication.factor": 1,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
        "share.coordinator.state.topic.replication.factor": 1,
        "share.coordinator.state.topic.min.isr": 1,
        "group.initial.rebalance.delay.ms": 0,
        # A restarted node can register when the session of the killed one has ended.
        "broker.session.timeout.ms": 3000,
        "broker.heartbeat.interval.ms": 500,
        # The defaults of 50 partitions and 128 MiB are for clusters; these need less time and memory.
        "offsets.topic.num.partitions": 4,
        # A long demo must not fill the disk.
        "log.retention.bytes": 1024**3,
        "log.segment.bytes": 128 * 1024**2,
        "transaction.state.log.num.partitions": 4,
        "log.cleaner.dedupe.buffer.size": 16 * 1024 * 1024,
    }
    return "".join(f"{name}={value}\n" for name, value in settings.items())


class Kafka(Service):
    """A Kafka node; `bootstrap` is its address."""

    name = "Kafka"
    ready_line = b"Kafka Server started"
    port_count = 2

    def __init__(self, directory: Path, held_fd: int | None, report: Callable[[str], None]) -> None:
        super().__init__(directory, held_fd)
        self._report = report
        self._java = ""
        self._jars = Path()

    @property
    def bootstrap(self) -> str:
        return f"{HOST}:{self.port}"

    def prepare(self) -> None:
        self._java = find_java()
        self._jars = fetch_jars(self._report)
        self.directory.mkdir(parents=True, exist_ok=True)
        if not self._data.is_dir():
            self._format()

    def command(self, ports: Sequence[int]) -> list[str]:
        self._configure("data", *ports)
        return self._run_java("-Xms256m", "-Xmx512m", "kafka.Kafka", _PROPERTIES)

    def _format(self) -> None:
        """Format a new folder and rename it, so that an interrupted format leaves no data folder."""
        self._report("formatting Kafka's data folder")
        new = self.directory / "data.new"
        shutil.rmtree(new, ignore_errors=True)
        # The ports are arbitrary: they are not stored in the folder.
        self._configure(new.name, 1, 2)
        # The tool parses an identifier with a leading dash as an option.
        cluster_id = "h" + secrets.token_urlsafe(16)[1:]
        tool = ["kafka.tools.StorageTool", "format", "--config", _PROPERTIES, "--cluster-id", cluster_id]
        self.run("Kafka's format tool", self._run_java("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", *tool))
        new.rename(self._data)

    def _configure(self, data: str, broker_port: int, controller_port: int) -> None:
        properties = server_properties(data, broker_port, controller_port)
        (self.directory / _PROPERTIES).write_text(properties)

    def _run_java(self, *arguments: str) -> list[str]:
        logging = [f"-Dorg.slf4j.simpleLogger.{name}" for name in _LOGGING]
        return [self._java, "-cp", f"{self._jars}/*", *logging, *arguments]

    @property
    def _data(self) -> Path:
        return self.directory / "data"
