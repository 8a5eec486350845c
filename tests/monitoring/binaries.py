"""`python -m tests.monitoring.binaries`: fetches the programs that the tests of this folder run.

What is on PATH is taken. The rest comes from Debian's packages, unpacked below `build/` and not installed; where there is no
apt, it says what to install.
"""

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from schemas.errors import SetupError

BUILD = Path("build/monitoring").absolute()


@dataclass(frozen=True)
class Program:
    """A program with its possible names; the first is the name in Debian's `package`."""

    package: str
    names: Sequence[str]

    def find(self) -> Path:
        """The path; raises SetupError when the program was not fetched."""
        found = next(filter(None, map(shutil.which, self.names)), None)
        path = Path(found) if found else self.unpacked
        if not path.exists():
            raise SetupError(
                f"{self.names[-1]} is not there; `python -m tests.monitoring.binaries` brings it"
            )
        return path

    @property
    def unpacked(self) -> Path:
        return BUILD / self.package / "usr" / "bin" / self.names[0]


PROMETHEUS = Program("prometheus", ["prometheus"])
PROMTOOL = Program("prometheus", ["promtool"])
ALERTMANAGER = Program("prometheus-alertmanager", ["prometheus-alertmanager", "alertmanager"])
# Debian's looks here for its templates, wherever it lies itself; a copy looks in the folder that it runs in.
_ALERTMANAGER_FILES = Path("/usr/share/prometheus/alertmanager")
ALERTMANAGER_FILES = "alertmanager-files"
AMTOOL = Program("prometheus-alertmanager", ["amtool"])
ALL = PROMETHEUS, PROMTOOL, ALERTMANAGER, AMTOOL


def bring(report: Callable[[str], None]) -> None:
    """Fetch every missing program, in one of several processes; raises SetupError when that fails."""
    BUILD.mkdir(parents=True, exist_ok=True)
    with (BUILD / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for program in ALL:
            try:
                program.find()
            except SetupError:
                report(f"fetching Debian's package {program.package} into {BUILD} (once)")
                _unpack(program.package)
                program.find()


def _unpack(package: str) -> None:
    """Download and unpack a package; an interrupted run leaves no partial package."""
    fetched, new = BUILD / f"{package}.fetched", BUILD / f"{package}.new"
    for folder in (fetched, new):
        shutil.rmtree(folder, ignore_errors=True)
    fetched.mkdir()
    if shutil.which("apt-get") is None:
        raise SetupError(
            f"{package} is neither on PATH nor is there apt-get to fetch it; install Prometheus and Alertmanager so "
            "that `prometheus`, `promtool`, `alertmanager` and `amtool` are on PATH"
        )
    try:
        _run(["apt-get", "download", package], fetched)
    except SetupError:
        if os.geteuid() != 0:
            raise
        # A new machine has no list of packages yet.
        _run(["apt-get", "update"], fetched)
        _run(["apt-get", "download", package], fetched)
    (archive,) = fetched.glob("*.deb")
    _run(["dpkg-deb", "--extract", str(archive), str(new)], fetched)
    shutil.rmtree(fetched)
    if package == ALERTMANAGER.package:
        _let_run_where_it_lies(new / "usr" / "bin" / ALERTMANAGER.names[0])
    new.rename(BUILD / package)


def _let_run_where_it_lies(alertmanager: Path) -> None:
    """Make it read its files below its working directory, because nothing is installed in /usr."""
    installed = bytes(_ALERTMANAGER_FILES)
    # A text of the same length, or everything behind it would move.
    beside = b"." + ALERTMANAGER_FILES.encode().rjust(len(installed) - 1, b"/")
    program = alertmanager.read_bytes()
    if installed not in program:
        raise SetupError(
            f"{alertmanager} does not look in {_ALERTMANAGER_FILES} for its files; install it instead"
        )
    alertmanager.write_bytes(program.replace(installed, beside))


def alertmanager_files() -> Path:
    """The files that it reads from its working directory when it is not installed."""
    return BUILD / ALERTMANAGER.package / _ALERTMANAGER_FILES.relative_to("/")


def _run(command: list[str], folder: Path) -> None:
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        raise SetupError(f"`{' '.join(command)}` failed:\n{ended.stderr.strip()}")


def main() -> None:
    out = Console(highlight=False, soft_wrap=True)
    try:
        bring(lambda step: out.print(f"monitoring: {step}", markup=False))
    except SetupError as error:
        sys.exit(f"monitoring: {error}")


if __name__ == "__main__":
    main()
