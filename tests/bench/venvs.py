"""A virtual environment for each peer, below `build/`, made once for each state of its requirements."""

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from schemas.errors import SetupError

from .contenders import PEERS

# The newest Python that every peer's pins support; MLServer has none for 3.13.
_NEWEST = (3, 12)


def ensure(name: str, folder: Path, report: Callable[[str], None]) -> Path:
    """The `bin` folder of the environment with `peers/NAME.txt`; raises SetupError."""
    requirements = PEERS / f"{name}.txt"
    venv = folder / name
    python = _python()
    state = hashlib.sha256(requirements.read_bytes() + python.encode()).hexdigest()
    stamp = venv / ".installed"
    if stamp.is_file() and stamp.read_text() == state:
        return venv / "bin"
    report(f"installing {name} into {venv} (once)")
    shutil.rmtree(venv, ignore_errors=True)
    _run([python, "-m", "venv", str(venv)])
    _run(
        [
            str(venv / "bin" / "python"),
            *("-m", "pip", "install", "--quiet", "--require-hashes", "-r"),
            str(requirements),
        ]
    )
    stamp.write_text(state)
    return venv / "bin"


def _python() -> str:
    if sys.version_info[:2] <= _NEWEST:
        return sys.executable
    for minor in range(_NEWEST[1], 10, -1):
        found = shutil.which(f"python3.{minor}")
        if found is not None:
            return found
    raise SetupError("the peers need Python 3.11 or 3.12 beside this one; put one on PATH")


def _run(command: list[str]) -> None:
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        raise SetupError(f"`{' '.join(command)}` failed:\n{ended.stderr.strip()}")
