"""The built wheel, installed alone into a virtual environment, away from the checkout."""

import subprocess
import sys
import sysconfig
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.support.stack.command import environment

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
PACKAGES = {"streams", "registry", "workers", "schemas", "deploy"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the checkout."""
    folder = tmp_path_factory.mktemp("dist")
    run(BIN / "hatchling", "build", "-t", "wheel", "-d", folder, cwd=ROOT)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of a virtual environment with the wheel, and our dependencies beside it."""
    venv = tmp_path_factory.mktemp("installed") / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", venv)
    python = venv / "bin" / "python"
    run(BIN / "uv", "pip", "install", "--offline", "--no-deps", "--python", python, wheel)
    (site,) = (venv / "lib").glob("python*/site-packages")
    # A path in a .pth file is added without reading the .pth files in it, so the checkout, which is
    # installed there as editable, is not found: imports come from the wheel.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python.parent


def run(*command: object, cwd: Path | None = None) -> str:
    ended = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_each_package_name_is_ours_alone() -> None:
    """The packages have plain names: no dependency may bring one of the same name."""
    owners = packages_distributions()
    assert {name: set(owners.get(name, ())) - {"headrace"} for name in PACKAGES} == {
        name: set() for name in PACKAGES
    }


def test_the_wheel_holds_the_typed_packages_and_nothing_else(wheel: Path) -> None:
    """No tests, no demo, no files for containers, and a classifier that keeps it from being uploaded."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        tops = {name.split("/")[0] for name in names}
        (metadata,) = [name for name in archive.namelist() if name.endswith("METADATA")]
        assert "Classifier: Private :: Do Not Upload" in archive.read(metadata).decode()
    assert {top for top in tops if not top.endswith(".dist-info")} == PACKAGES
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(names)
    assert {name.split("/")[1] for name in names if name.startswith("deploy/")} == {
        "__init__.py",
        "kafka",
        "local",
        "py.typed",
    }


def test_the_command_runs_outside_the_checkout(installed: Path, tmp_path: Path) -> None:
    """The installed command knows all its verbs, and comes from the wheel."""
    told = run(installed / "headrace", "--help", cwd=tmp_path)
    assert {"up", "register", "worker", "predict", "top", "config"} <= {
        line.split()[0] for line in told.splitlines() if line
    }
    where = run(installed / "python", "-c", "import streams; print(streams.__file__)", cwd=tmp_path)
    assert Path(where).is_relative_to(installed.parent)
    assert "HEADRACE_KAFKA_BOOTSTRAP" in run(installed / "headrace", "config", cwd=tmp_path)


def test_the_wheel_carries_its_resources(installed: Path, tmp_path: Path) -> None:
    """Migrations, the list of Kafka's jars and the live page are read from the package, not from the checkout."""
    listing = (
        "from importlib.resources import files;"
        "print(*(f.name for f in files('registry.migrations').iterdir()));"
        "print(files('deploy').joinpath('kafka/pom.xml').read_text()[:5]);"
        "print(*(f.name for f in files('streams.dashboard').joinpath('page').iterdir()))"
    )
    migrations, pom, page = run(installed / "python", "-c", listing, cwd=tmp_path).splitlines()
    assert any(name.endswith(".sql") for name in migrations.split())
    assert pom == "<?xml"
    assert {"index.html", "page.css", "page.js"} <= set(page.split())
