"""The Docker engine: the one that runs, else Debian's, started for as long as it is needed."""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy.local.process import ChildProcess
from schemas.errors import SetupError

_START_SECONDS = 60.0
# It ends the containers that are left, which takes them up to 10 s.
_STOP_SECONDS = 30.0
_INSTALL_SECONDS = 600.0
_ANSWER_SECONDS = 20.0


class NoEngineError(SetupError):
    """No container engine runs here, and none can be started."""


@contextmanager
def engine(folder: Path, report: Callable[[str], None]) -> Iterator[None]:
    """Have an engine until the block ends; one of our own writes its log into `folder`.

    It ends with this process, however that one ends. Raises NoEngineError.
    """
    complaint = _complaint()
    if complaint is None:
        yield
        return
    if os.geteuid() != 0:
        raise NoEngineError(f"start a Docker engine, or be root to have one started; it says: {complaint}")
    try:
        install({"dockerd": "docker.io", "iptables": "iptables"}, report)
    except SetupError as error:
        raise NoEngineError(str(error)) from error
    report("starting Docker's engine")
    folder.mkdir(parents=True, exist_ok=True)
    child = ChildProcess(
        "Docker's engine", ["dockerd"], log=folder / "dockerd.log", death_signal=signal.SIGTERM
    )
    try:
        try:
            child.wait_for_line(b"API listen on", _START_SECONDS)
        except SetupError as error:
            raise NoEngineError(str(error)) from error
        complaint = _complaint()
        if complaint is not None:
            raise NoEngineError(f"the engine that was started does not answer: {complaint}")
        yield
    finally:
        child.request_end(signal.SIGTERM)
        child.wait(_STOP_SECONDS)
        child.close()
        report("Docker's engine is stopped")


def install(packages: dict[str, str], report: Callable[[str], None]) -> None:
    """Install Debian's packages (by the command that each brings) that are not there; raises SetupError."""
    missing = sorted({package for command, package in packages.items() if shutil.which(command) is None})
    if not missing:
        return
    names = " ".join(missing)
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise SetupError(f"install {names}: this is not Debian, or you are not root")
    report(f"installing {names}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "--yes", "--no-install-recommends", *missing]):
        ended = subprocess.run(
            ["apt-get", "--quiet", *command],
            env=environment,
            capture_output=True,
            text=True,
            timeout=_INSTALL_SECONDS,
            check=False,
        )
        if ended.returncode != 0:
            raise SetupError(f"{names} cannot be installed: {ended.stderr.strip()[-1000:]}")


def _complaint() -> str | None:
    """Why no engine answers; None if one does."""
    try:
        asked = subprocess.run(
            ["docker", "version", "--format", "{{.Server.Version}}"],
            capture_output=True,
            text=True,
            timeout=_ANSWER_SECONDS,
            check=False,
        )
    except FileNotFoundError:
        return "there is no command `docker`"
    except subprocess.TimeoutExpired:
        return f"`docker version` takes more than {_ANSWER_SECONDS:g} s"
    return None if asked.returncode == 0 else asked.stderr.strip()
