"""The memory that a worker may take, and a control group of that size, where this machine lets us make one."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from streams.config.settings import Settings
from streams.kafka.batch_producer import MAX_BATCH_BYTES

_ROOT = Path("/sys/fs/cgroup")


def documented_bound_of_others(settings: Settings) -> int:
    """What docs/operations.md says of the roles that are not `predict`, for one partition."""
    other = settings.model_copy(update={"slices_in_flight": 2, "slices_set_aside": 0})
    return documented_bound_bytes(other, partitions=1)


def documented_bound_bytes(settings: Settings, *, partitions: int) -> int:
    """The formula of docs/operations.md without models in the process."""
    handled = settings.slices_in_flight + settings.slices_set_aside
    slices = handled + settings.slices_in_flight + 1
    outputs = handled * settings.slice_max_records * 4096 + 3 * settings.output_buffer_bytes
    return (
        slices * settings.fetch_max_bytes
        + handled * 32 * settings.fetch_max_bytes
        + outputs
        + partitions * 2 * settings.fetch_max_bytes
        + partitions * 4 * MAX_BATCH_BYTES
        + 4 * settings.batch_max_bytes
    )


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
        used = self.used_bytes
        (self._folder / self._limit).write_text(str(used + more_bytes))

    @property
    def used_bytes(self) -> int:
        """The memory of its processes, and of the files that they have read."""
        return int((self._folder / self._usage).read_text())

    @property
    def kills(self) -> int:
        """How many of its processes the kernel has killed for want of memory."""
        pairs = (line.split() for line in (self._folder / self._events).read_text().splitlines())
        return int(dict(pairs)["oom_kill"])


@contextmanager
def memory_cgroup() -> Iterator[MemoryCgroup]:
    """A group below this process's own; the test is skipped, with the reason, where none can be made."""
    with memory_cgroup_or_reason() as group:
        if isinstance(group, str):
            pytest.skip(group)
        yield group


@contextmanager
def memory_cgroup_or_reason() -> Iterator[MemoryCgroup | str]:
    """A group below this process's own, or why none can be made."""
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
        yield f"no control group can be made below {parent}: {error}"
        return
    try:
        if (folder / ("memory.limit_in_bytes" if version == 1 else "memory.max")).exists():
            yield MemoryCgroup(folder, version=version)
        else:
            yield f"control groups below {parent} do not limit memory"
    finally:
        # A process that still runs ends with its own fixture.
        for pid in (folder / "cgroup.procs").read_text().split():
            (parent / "cgroup.procs").write_text(pid)
        folder.rmdir()
