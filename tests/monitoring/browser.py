"""`python -m tests.monitoring.browser`: fetches Debian's Chromium and a font into `build/`; installs nothing.

Where there is no apt, a Chromium that is on PATH is taken.
"""

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from schemas.errors import SetupError

BUILD = Path("build/browser").absolute()
ROOT = BUILD / "root"
# What chromium needs and is not installed here comes with it. The font makes screenshots the same everywhere.
PACKAGES = ("chromium", "fonts-inter")
ON_PATH = ("chromium", "chromium-browser", "google-chrome")
_FONTS = """<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig><dir>{root}/usr/share/fonts</dir><cachedir>{build}/fonts</cachedir></fontconfig>
"""


@dataclass(frozen=True)
class Chromium:
    """The executable, and the environment variables that it needs."""

    executable: Path
    variables: Mapping[str, str]


def find() -> Chromium:
    """The fetched Chromium, else one on PATH; raises SetupError when there is neither."""
    executable = ROOT / "usr" / "lib" / "chromium" / "chromium"
    if executable.exists():
        libraries = {each.parent for each in (ROOT / "usr" / "lib").rglob("*.so*")} - {executable.parent}
        return Chromium(
            executable,
            {
                "LD_LIBRARY_PATH": ":".join(sorted(map(str, libraries))),
                "FONTCONFIG_FILE": str(BUILD / "fonts.conf"),
            },
        )
    found = next(filter(None, map(shutil.which, ON_PATH)), None)
    if found is None:
        raise SetupError("there is no Chromium; `python -m tests.monitoring.browser` brings one")
    return Chromium(Path(found), {})


def bring(report: Callable[[str], None]) -> None:
    """Fetch Chromium if it is missing, in one of several processes; raises SetupError when that fails."""
    BUILD.mkdir(parents=True, exist_ok=True)
    with (BUILD / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if ROOT.exists() or shutil.which("apt-get") is None:
            find()
            return
        report(f"fetching Debian's {' and '.join(PACKAGES)} into {BUILD} (once)")
        fetched, new = BUILD / "fetched", BUILD / "new"
        for folder in (fetched, new):
            shutil.rmtree(folder, ignore_errors=True)
        _fetch(fetched)
        for archive in sorted(fetched.glob("*.deb")):
            _run("dpkg-deb", "--extract", str(archive), str(new))
        shutil.rmtree(fetched)
        (BUILD / "fonts.conf").write_text(_FONTS.format(root=ROOT, build=BUILD))
        # An interrupted one is not taken for whole.
        new.rename(ROOT)


def _fetch(folder: Path) -> None:
    (folder / "partial").mkdir(parents=True)
    fetch = [
        *("apt-get", "--yes", "--no-install-recommends", "--download-only"),
        *("-o", "Debug::NoLocking=1", "-o", f"Dir::Cache::archives={folder}"),
        *("install", *PACKAGES),
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


def main() -> None:
    try:
        bring(lambda step: print(f"browser: {step}", file=sys.stderr, flush=True))  # noqa: T201 - progress for the user
    except SetupError as error:
        sys.exit(f"browser: {error}")


if __name__ == "__main__":
    main()
