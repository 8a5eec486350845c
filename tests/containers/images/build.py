"""Stand-ins for the official images, built from this machine's packages and kept by their content."""

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from deploy.local.java import POM, fetch_jars
from schemas.errors import SetupError
from tests.containers.images import host
from tests.containers.images.engine import install

FOLDER = Path(__file__).parent
_PREFIX = "headrace-stand-in"


@dataclass(frozen=True)
class StandIn:
    """An image of a folder beside this file; `target` is one of its stages, the last when there is none."""

    folder: str
    target: str | None = None

    @property
    def name(self) -> str:
        return self.folder if self.target is None else f"{self.folder}-{self.target}"


# By the variables of docker-compose.yml and deploy/Dockerfile.
STAND_INS: Mapping[str, StandIn] = {
    "KAFKA_IMAGE": StandIn("kafka"),
    "POSTGRES_IMAGE": StandIn("postgres"),
    "REDIS_IMAGE": StandIn("redis"),
    "PROMETHEUS_IMAGE": StandIn("prometheus"),
    # Dependencies are installed in one that knows where packages come from, and run in one that does not.
    "BUILD_IMAGE": StandIn("python", "build"),
    "PYTHON_IMAGE": StandIn("python"),
}


def build(report: Callable[[str], None]) -> dict[str, str]:
    """The images' names by variable, each built unless it is there already; raises SetupError."""
    with tempfile.TemporaryDirectory(prefix="headrace-images-") as folder:
        base = _base(Path(folder), report)
        return {
            variable: _stand_in(stand_in, base, Path(folder), report)
            for variable, stand_in in STAND_INS.items()
        }


def _base(folder: Path, report: Callable[[str], None]) -> str:
    configuration = folder / "configuration"
    configuration.mkdir()
    host.stage(configuration)
    name = f"{_PREFIX}-base:{digest([configuration, FOLDER / 'host.py'], host.codename())}"
    if _is_there(name):
        return name
    if os.geteuid() != 0:
        raise SetupError("stand-ins for the official images are built by debootstrap, which wants root")
    install({"debootstrap": "debootstrap"}, report)
    report(f"building {name}")
    root = folder / "root"
    host.bootstrap(root, configuration)
    with subprocess.Popen(
        ["tar", "--create", "--numeric-owner", "--directory", str(root), "."], stdout=subprocess.PIPE
    ) as tar:
        _docker("import", "-", name, stdin=tar.stdout)
    _remove_older(name)
    return name


def _stand_in(stand_in: StandIn, base: str, folder: Path, report: Callable[[str], None]) -> str:
    source = FOLDER / stand_in.folder
    inputs = [source, POM] if stand_in.folder == "kafka" else [source]
    name = f"{_PREFIX}-{stand_in.name}:{digest(inputs, base)}"
    if _is_there(name):
        return name
    report(f"building {name}")
    context = folder / stand_in.name
    shutil.copytree(source, context)
    if stand_in.folder == "kafka":
        shutil.copytree(fetch_jars(report), context / "jars")
    target = [] if stand_in.target is None else [f"--target={stand_in.target}"]
    _docker("build", "--quiet", "--tag", name, f"--build-arg=BASE_IMAGE={base}", *target, str(context))
    _remove_older(name)
    return name


def digest(paths: Iterable[Path], *words: str) -> str:
    """Of the names and contents of all files, and the words."""
    digest = hashlib.sha256("\0".join(words).encode())
    for path in paths:
        files = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
        for file in files:
            digest.update(f"\0{file.relative_to(path.parent)}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:12]


def _remove_older(name: str) -> None:
    """What the new one takes the place of, unless a container has it still."""
    repository = name.partition(":")[0]
    listed = _docker("image", "ls", "--format={{.Repository}}:{{.Tag}}", repository).split()
    for older in set(listed) - {name}:
        subprocess.run(["docker", "image", "rm", older], capture_output=True, check=False)


def _is_there(name: str) -> bool:
    asked = subprocess.run(["docker", "image", "inspect", name], capture_output=True, check=False)
    return asked.returncode == 0


def _docker(*arguments: str, stdin: IO[bytes] | None = None) -> str:
    # The classic builder comes with the engine; the newer one is a program of its own.
    ended = subprocess.run(
        ["docker", *arguments],
        env={**os.environ, "DOCKER_BUILDKIT": "0"},
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if ended.returncode != 0:
        raise SetupError(f"`docker {arguments[0]}` failed: {ended.stdout.strip()[-3000:]}")
    return ended.stdout
