"""A single Kafka node in KRaft mode, broker and controller in one process."""

import secrets
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from deploy.local.java import fetch_jars, find_java
from deploy.local.service import HOST, Service

# A record of several MiB passes whole, so that the topics' own limits are the ones that count.
MAX_MESSAGE_BYTES = 5 * 1024 * 1024
_PROPERTIES = "server.properties"
# Trouble, and the one line that says that the node serves; the rest is thousands of lines a start.
_LOGGING = (
    "showDateTime=true",
    "dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSXXX",
    "defaultLogLevel=warn",
    "log.kafka.server.KafkaRaftServer=info",
)


def server_properties(data: str, broker_port: int, controller_port: int) -> str:
    """The node's configuration. Ports may differ from one start to the next on the same data.

    `data` is relative to the folder that the node runs in: a comma in the setting would separate two
    folders, and a character beyond ASCII would be misread.
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
        # One node: nothing is replicated, nobody is waited for.
        "offsets.topic.replication.factor": 1,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
        "share.coordinator.state.topic.replication.factor": 1,
        "share.coordinator.state.topic.min.isr": 1,
        "group.initial.rebalance.delay.ms": 0,
        # A node that was killed waits so long before its next life may register.
        "broker.session.timeout.ms": 3000,
        "broker.heartbeat.interval.ms": 500,
        # The defaults of 50 partitions and 128 MiB are for clusters; these start in less time and heap.
        "offsets.topic.num.partitions": 4,
        # A demo that runs for days must not fill the disk.
        "log.retention.bytes": 1024**3,
        "log.segment.bytes": 128 * 1024**2,
        "transaction.state.log.num.partitions": 4,
        "log.cleaner.dedupe.buffer.size": 16 * 1024 * 1024,
    }
    return "".join(f"{name}={value}\n" for name, value in settings.items())


class Kafka(Service):
    """`bootstrap` is its address."""

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
        """Format a new folder and rename it, so that an interrupted one is not taken for whole."""
        self._report("formatting Kafka's data folder")
        new = self.directory / "data.new"
        shutil.rmtree(new, ignore_errors=True)
        # The ports do not matter here: nothing of them is written into the folder.
        self._configure(new.name, 1, 2)
        # An identifier that starts with a dash would be read as an option.
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
