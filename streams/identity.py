"""Who a process is to others."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Identity:
    """`worker` is a stable name, `boot_id` another one each time that the process starts."""

    worker: str
    boot_id: str
