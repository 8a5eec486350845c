"""A worker that is started again when it has ended, as under a supervisor, and what a run of such workers has seen."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from signal import SIGKILL

from streams.config.settings import Settings
from tests.support.worker.kill_points import VARIABLE, KillPoints
from tests.support.worker.memory_cgroup import MemoryCgroup
from tests.support.worker.process import StartWorker, WorkerProcess

MIB = 1 << 20


class Role(StrEnum):
    """Who reads the topic of an example."""

    PREDICT = "predict"
    CONTROL = "control"
    MONITOR = "monitor"
    LOG = "log"


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
    """A process that is started again when it has ended, as under a supervisor.

    From its first readiness on, it has `bound_bytes` more memory than it has taken, where there is a control group.
    """

    def __init__(
        self,
        start: StartWorker,
        settings: Settings,
        role: Role,
        *,
        statistics: Statistics,
        points: KillPoints,
        group: MemoryCgroup | None,
    ) -> None:
        self._start, self._settings, self._role, self._statistics = start, settings, role, statistics
        self.points = points
        self._group = group
        self._killed = ""
        self._lives: list[WorkerProcess] = []
        self._keeping: asyncio.Task[None] | None = None
        self._base_bytes = 0
        self._begin()

    async def ready(self, bound_bytes: int) -> None:
        await self._worker.ready()
        self._base_bytes = _peak_bytes(self._worker) or 0
        if self._group is not None:
            self._group.limit(bound_bytes)
        self._keeping = asyncio.create_task(self._keep())

    def kill(self, when: str) -> None:
        """Kill the process, whatever it does."""
        self._killed = when
        self._worker.kill()

    def grown_bytes(self) -> int:
        """The most memory that the process has had, beyond what it had when it was ready."""
        grown = max(0, (_peak_bytes(self._worker) or self._base_bytes) - self._base_bytes)
        self._statistics.peak_mib[self._role] = max(self._statistics.peak_mib[self._role], grown // MIB)
        return grown

    def killed_for_memory(self) -> int:
        """How often the kernel has killed it for want of memory."""
        return 0 if self._group is None else self._group.kills

    def total(self, events: set[str], field: str) -> int:
        """The sum of a field of the lines with one of the events, over all its lives."""
        lines = (line for life in self._lives for each in events for line in life.lines_of(each))
        return sum(int(line[field]) for line in lines)

    async def close(self) -> None:
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
        self._worker.kill()
        # A control group can be removed when its processes have ended.
        await self._worker.ended()

    @property
    def _worker(self) -> WorkerProcess:
        return self._lives[-1]

    def _begin(self) -> None:
        env = {VARIABLE: str(self.points.folder)}
        self._lives.append(self._start(self._settings, self._role, env=env))
        if self._group is not None:
            self._group.add(self._worker.pid)

    async def _keep(self) -> None:
        while True:
            await self._worker.exited()
            code = await self._worker.ended()
            whens = [str(step) for step in self.points.reached()] or [self._killed] * bool(self._killed)
            self._killed = ""
            if code == -SIGKILL and whens and not self.killed_for_memory():
                self._statistics.kills.update(f"{self._role} {when}" for when in whens)
            else:
                self._statistics.ends[f"{self._role}: exit {code}"] += 1
            self._begin()


def group_of(settings: Settings, role: Role) -> str:
    """The consumer group of a role."""
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
