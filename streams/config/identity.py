"""Who a process is to others."""

import os
import socket
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Identity:
    """`worker` is a stable name, `boot_id` another one each time that the process starts."""

    worker: str
    boot_id: str


def default_worker_name() -> str:
    """The name of a process that was given none."""
    return f"{socket.gethostname()}-{os.getpid()}"
