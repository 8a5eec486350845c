"""A worker that is started again when it has ended, as under a supervisor, and what a run of such workers has seen."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from streams.config.settings import Settings
from tests.support.kafka.administration import expire_members
from tests.support.worker.process import StartWorker, WorkerProcess

MIB = 1 << 20


class Role(StrEnum):
    """Who reads the topic of an example."""

    PREDICT = "predict"
    CONTROL = "control"
    MONITOR = "monitor"
    LOG = "log"


class Kill(StrEnum):
    """When the process is killed."""

    NEVER = "never"
    SENT = "when the records are in their topic"
    CALL = "in a call to the model server"
    OUTPUT = "when the last record has its output"


@dataclass
class Statistics:
    """What a run has tried, and what became of it."""

    examples: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    kills: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    peak_mib: Counter[str] = field(default_factory=Counter)

    def add(self, other: "Statistics") -> None:
        """Add what another installation has tried."""
        self.examples += other.examples
        for name in ("kinds", "outcomes", "kills", "ends"):
            getattr(self, name).update(getattr(other, name))
        self.peak_mib |= other.peak_mib

    def text(self) -> str:
        parts = {"kinds of batches": self.kinds, "outcomes": self.outcomes, "kills": self.kills}
        parts |= {"ends by themselves": self.ends, "peak memory above the start, MiB": self.peak_mib}
        lines = [
            f"  {name}: {', '.join(f'{key} {n}' for key, n in sorted(each.items()))}"
            for name, each in parts.items()
        ]
        return "\n".join([f"{self.examples} examples", *lines])


class Kept:
    """A process that is started again when it has ended, as under a supervisor."""

    def __init__(self, start: StartWorker, settings: Settings, role: Role, statistics: Statistics) -> None:
        self._start, self._settings, self._role, self._statistics = start, settings, role, statistics
        self._killed = False
        self._worker = start(settings, role)
        self._keeping: asyncio.Task[None] | None = None
        self._base_bytes = 0

    async def ready(self) -> None:
        await self._worker.ready()
        self._base_bytes = _peak_bytes(self._worker) or 0
        self._keeping = asyncio.create_task(self._keep())

    def kill(self, when: Kill) -> None:
        """Kill the process if it is ready: one that dies while it loads a version serves without that version next."""
        if not self._killed and self._worker.count("worker ready"):
            self._killed = True
            self._statistics.kills[f"{self._role} {when}"] += 1
            self._worker.kill()

    def grown_bytes(self) -> int:
        """The most memory that the process has had, beyond what it had when it was ready."""
        grown = max(0, (_peak_bytes(self._worker) or self._base_bytes) - self._base_bytes)
        self._statistics.peak_mib[self._role] = max(self._statistics.peak_mib[self._role], grown // MIB)
        return grown

    async def close(self) -> None:
        if self._keeping is not None:
            self._keeping.cancel()
        self._worker.kill()
        if self._keeping is not None:
            await asyncio.gather(self._keeping, return_exceptions=True)

    async def _keep(self) -> None:
        while True:
            await self._worker.exited()
            if not self._killed:
                self._statistics.ends[f"{self._role}: exit {await self._worker.ended()}"] += 1
            # Otherwise the group waits for the session of the one that died.
            await expire_members(self._settings, _group(self._settings, self._role))
            self._killed = False
            self._worker = self._start(self._settings, self._role)


def _group(settings: Settings, role: Role) -> str:
    return {
        Role.PREDICT: settings.group_id,
        Role.CONTROL: settings.control_group_id,
        Role.MONITOR: settings.monitor_group_id,
        Role.LOG: settings.log_group_id,
    }[role]


def _peak_bytes(worker: WorkerProcess) -> int | None:
    try:
        status = Path(f"/proc/{worker.pid}/status").read_text()
    except OSError:
        return None
    lines = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(lines[0].split()[1]) * 1024 if lines else None
