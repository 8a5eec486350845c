"""`python -m tests.clients.environments`: makes what the clients run in, below `build/`, before the tests need it.

- `build/clients/client`: a virtual environment with the wheel of `streams/headrace_client` and what it needs;
- `build/clients/javascript`: kafkajs, where Node.js with npm is installed;
- `build/clients/kcat`: Debian's kcat, or that on PATH.

It prints what cannot be had here; the tests of that client are skipped with the reason.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from schemas.errors import SetupError
from tests.bench import venvs
from tests.support.stack.debian import library_path, unpack

BUILD = Path("build/clients").absolute()
SOURCE = Path("streams/headrace_client")
_HERE = Path(__file__).parent
_REQUIREMENTS = _HERE / "requirements" / "client.txt"
_JAVASCRIPT = _HERE / "javascript"
_BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Environments:
    """`python` is that of the client's environment; None for what is not there."""

    python: Path
    kcat: Path | None
    kcat_variables: Mapping[str, str]
    node: str | None
    javascript: Path


def find() -> Environments:
    """What was made; raises SetupError when the client's environment was not."""
    python = BUILD / "client" / "bin" / "python"
    if not python.exists():
        raise SetupError(
            "the client's environment is not there; `python -m tests.clients.environments` makes it"
        )
    root = BUILD / "kcat" / "root"
    fetched = root / "usr" / "bin" / "kcat"
    on_path = shutil.which("kcat")
    javascript = BUILD / "javascript"
    return Environments(
        python=python,
        kcat=fetched if fetched.exists() else Path(on_path) if on_path else None,
        kcat_variables={"LD_LIBRARY_PATH": library_path(root)} if fetched.exists() else {},
        node=shutil.which("node") if (javascript / "node_modules").exists() else None,
        javascript=javascript,
    )


def make(report: Callable[[str], None]) -> None:
    """Make all; raises SetupError when the client's environment cannot be made."""
    venvs.ensure(_REQUIREMENTS, BUILD, report)
    _install_client(BUILD / "client" / "bin" / "python")
    for name, step in (("kcat", _bring_kcat), ("kafkajs", _bring_kafkajs)):
        try:
            step(report)
        except SetupError as error:
            report(f"no {name}: {error}")


def _install_client(python: Path) -> None:
    dist = BUILD / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    _run([str(_BIN / "hatchling"), "build", "-t", "wheel", "-d", str(dist)], SOURCE)
    (wheel,) = dist.glob("*.whl")
    install = [str(_BIN / "uv"), "pip", "install", "--quiet", "--offline", "--no-deps", "--reinstall"]
    _run([*install, "--python", str(python), str(wheel)], BUILD)


def _bring_kcat(report: Callable[[str], None]) -> None:
    if shutil.which("kcat") is None and unpack(["kcat"], BUILD / "kcat", report) is None:
        raise SetupError("there is neither kcat on PATH nor apt-get")


def _bring_kafkajs(report: Callable[[str], None]) -> None:
    if shutil.which("node") is None or shutil.which("npm") is None:
        raise SetupError("there is no Node.js with npm")
    folder = BUILD / "javascript"
    stamp = folder / ".installed"
    lock = (_JAVASCRIPT / "package-lock.json").read_bytes()
    state = hashlib.sha256(lock).hexdigest()
    if not stamp.is_file() or stamp.read_text() != state:
        report(f"installing kafkajs into {folder} (once)")
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(_JAVASCRIPT, folder)
        _run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], folder)
        stamp.write_text(state)
    shutil.copy(_JAVASCRIPT / "ask.mjs", folder)


def _run(command: list[str], folder: Path) -> None:
    ended = subprocess.run(
        command, cwd=folder, env={**os.environ, "CI": "true"}, capture_output=True, text=True, check=False
    )
    if ended.returncode != 0:
        raise SetupError(f"`{' '.join(command)}` failed:\n{ended.stderr.strip()}")


def main() -> None:
    try:
        make(lambda step: print(f"clients: {step}", file=sys.stderr, flush=True))  # noqa: T201 - progress
    except SetupError as error:
        sys.exit(f"clients: {error}")


if __name__ == "__main__":
    main()
