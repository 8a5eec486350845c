"""The names that identify a process to Kafka, to the registry and in metrics."""

import os
import socket
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Identity:
    """`worker` is a stable name; `boot_id` is new at each start of the process."""

    worker: str
    boot_id: str

    def client_id(self, role: str) -> str:
        """The Kafka client id of one role of this process."""
        return f"headrace-{self.worker}-{role}"


def default_worker_name() -> str:
    """HOST-PID, the worker name when none is configured."""
    return f"{socket.gethostname()}-{os.getpid()}"
