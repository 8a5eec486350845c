"""Virtual environments of programs that are not ours, below `build/`, made once for each state of their requirements.

uv makes them: it installs in seconds what takes pip minutes.
"""

import fcntl
import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from schemas.errors import SetupError

# The newest Python that every set of pins supports; MLServer has none for 3.13.
_NEWEST = (3, 12)
_UV = str(Path(sys.executable).with_name("uv"))
# What uv prints when the cause is the machine, and not the requirements.
_LACKING = {
    "Failed to fetch": "no package index is reachable",
    "the network was disabled": "no package index is reachable",
    "matching platform tag": "there are no packages for this platform",
}


class LackingError(SetupError):
    """What this machine lacks; nothing is known about what was to be installed or started."""


def ensure(requirements: Path, folder: Path, report: Callable[[str], None]) -> Path:
    """The `bin` folder of an environment with exactly the pins of `NAME.txt`, in `folder/NAME`.

    Of several processes one installs and the others wait. Raises LackingError when Python or a
    package index is missing, SetupError when the pins cannot be installed.
    """
    name = requirements.stem
    venv = folder / name
    stamp = venv / ".installed"
    python = _python()
    state = hashlib.sha256(requirements.read_bytes() + python.encode()).hexdigest()
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder / f"{name}.lock"):
        if not stamp.is_file() or stamp.read_text() != state:
            report(f"installing {name} into {venv} (once)")
            shutil.rmtree(venv, ignore_errors=True)
            _run([_UV, "venv", "--quiet", "--no-project", "--python", python, str(venv)])
            # The environment's own Python, in case another one is active.
            inside = ["--python", str(venv / "bin" / "python")]
            _run([_UV, "pip", "sync", "--quiet", "--require-hashes", *inside, str(requirements)])
            stamp.write_text(state)
    return venv / "bin"


def _python() -> str:
    if sys.version_info[:2] <= _NEWEST:
        # Scripts of one environment call its Python by different names.
        return str(Path(sys.executable).resolve())
    for minor in range(_NEWEST[1], 10, -1):
        found = shutil.which(f"python3.{minor}")
        # A version manager has commands of that name for versions that are not there.
        if (
            found is not None
            and subprocess.run([found, "-V"], capture_output=True, check=False).returncode == 0
        ):
            return found
    raise LackingError("Python 3.11 or 3.12 is needed beside this one; put one on PATH")


def _run(command: list[str]) -> None:
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode == 0:
        return
    for text, reason in _LACKING.items():
        if text in ended.stderr:
            raise LackingError(reason)
    raise SetupError(f"`{' '.join(command)}` failed:\n{ended.stderr.strip()}")


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
