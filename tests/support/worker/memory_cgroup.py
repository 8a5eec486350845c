"""A control group that limits the memory of a worker, where this machine lets us make one."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_ROOT = Path("/sys/fs/cgroup")


class MemoryCgroup:
    """A group of version 1 or 2 with nothing in it; `limit` must come before the process needs more."""

    def __init__(self, folder: Path, *, version: int) -> None:
        self._folder = folder
        self._limit, self._usage, self._events = {
            1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.oom_control"),
            2: ("memory.max", "memory.current", "memory.events"),
        }[version]

    def add(self, pid: int) -> None:
        """Charge what the process takes from now on."""
        (self._folder / "cgroup.procs").write_text(str(pid))

    def limit(self, more_bytes: int) -> None:
        """From now on the group gets at most so many bytes more than it has."""
        used = int((self._folder / self._usage).read_text())
        (self._folder / self._limit).write_text(str(used + more_bytes))

    @property
    def kills(self) -> int:
        """How many of its processes the kernel has killed for want of memory."""
        pairs = (line.split() for line in (self._folder / self._events).read_text().splitlines())
        return int(dict(pairs)["oom_kill"])


@contextmanager
def memory_cgroup() -> Iterator[MemoryCgroup]:
    """A group below this process's own; the test is skipped, with the reason, where none can be made."""
    groups = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    own = {controllers: path.lstrip("/") for _, controllers, path in groups}
    if "memory" in own:
        version, parent = 1, _ROOT / "memory" / own["memory"]
    else:
        version, parent = 2, _ROOT / own.get("", "")
    folder = parent / f"headrace-{uuid.uuid4().hex[:12]}"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made below {parent}: {error}")
    try:
        if not (folder / ("memory.limit_in_bytes" if version == 1 else "memory.max")).exists():
            pytest.skip(f"control groups below {parent} do not limit memory")
        yield MemoryCgroup(folder, version=version)
    finally:
        # A process that still runs ends with its own fixture.
        for pid in (folder / "cgroup.procs").read_text().split():
            (parent / "cgroup.procs").write_text(pid)
        folder.rmdir()
