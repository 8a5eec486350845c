"""Programs of Debian's packages, with the libraries that they need, unpacked below `build/`: nothing is installed."""

import fcntl
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from schemas.errors import SetupError


def unpack(packages: Sequence[str], build: Path, report: Callable[[str], None]) -> Path | None:
    """The folder with these packages and what they need, made once by one of several processes.

    None where there is no apt. Raises SetupError when they cannot be fetched.
    """
    root = build / "root"
    build.mkdir(parents=True, exist_ok=True)
    with (build / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if root.exists():
            return root
        if shutil.which("apt-get") is None:
            return None
        report(f"fetching Debian's {' and '.join(packages)} into {build} (once)")
        fetched, new = build / "fetched", build / "new"
        for folder in (fetched, new):
            shutil.rmtree(folder, ignore_errors=True)
        _fetch(packages, fetched)
        for archive in sorted(fetched.glob("*.deb")):
            _run("dpkg-deb", "--extract", str(archive), str(new))
        shutil.rmtree(fetched)
        # An interrupted one is not taken for whole.
        new.rename(root)
    return root


def library_path(root: Path, *, without: Path | None = None) -> str:
    """LD_LIBRARY_PATH of what was unpacked, but for the folder of a program that finds its own libraries."""
    folders = {each.parent for each in (root / "usr" / "lib").rglob("*.so*")} - {without}
    return ":".join(sorted(map(str, folders)))


def _fetch(packages: Sequence[str], folder: Path) -> None:
    (folder / "partial").mkdir(parents=True)
    fetch = [
        *("apt-get", "--yes", "--no-install-recommends", "--download-only"),
        *("-o", "Debug::NoLocking=1", "-o", f"Dir::Cache::archives={folder}"),
        *("install", *packages),
    ]
    try:
        _run(*fetch)
    except SetupError:
        if os.geteuid() != 0:
            raise
        # A new machine has no list of packages yet.
        _run("apt-get", "update")
        _run(*fetch)


def _run(*command: str) -> None:
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        raise SetupError(f"`{' '.join(command)}` failed:\n{ended.stderr.strip()}")
