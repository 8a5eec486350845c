"""The image by itself: small, without rights, without anything to build with."""

import os
from pathlib import Path

import pytest

from tests.containers.composed import IMAGE, Composed
from tests.containers.docker import docker, inspect

CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"
MOST_ADDED_MB = 220


@pytest.fixture
def image(composed: Composed) -> str:
    """Its name; the composed system was built with it."""
    return IMAGE


def run_shell(image: str, script: str) -> str:
    """What a shell prints in a container of the image, which is gone then."""
    return docker("run", "--rm", "--read-only", "--tmpfs=/tmp", "--entrypoint=sh", image, "-c", script)


def test_it_adds_little_to_its_python(image: str) -> None:
    """Beside the image that it is made from."""
    base = os.environ.get("PYTHON_IMAGE", "python:3.12-slim-bookworm")
    added_mb = (inspect(image)["Size"] - inspect(base)["Size"]) / 1e6
    assert 100 < added_mb <= MOST_ADDED_MB


def test_it_runs_as_nobody_in_particular(image: str) -> None:
    """A user that owns nothing but the folder of model files."""
    assert run_shell(image, "id -u").strip() == "10001"
    owned = "find / -xdev -user 10001 -not -path '/proc/*' 2>/dev/null || true"
    assert run_shell(image, owned).split() == ["/var/cache/headrace"]


def test_it_has_nothing_to_build_with(image: str) -> None:
    """No installer in its environment, no compiler, no cache, and no word of where packages came from."""
    installers = "ls /opt/headrace/bin /opt/headrace/lib/python3*/site-packages | grep -iE '^(pip|uv|setuptools|hatchling|wheel)'"
    assert run_shell(image, f"{installers} || true") == ""
    assert run_shell(image, "command -v gcc cc make uv || true") == ""
    assert run_shell(image, "find /src /root/.cache /tmp -mindepth 1 2>/dev/null || true") == ""
    assert run_shell(image, "cat /etc/pip.conf /etc/host-configuration 2>/dev/null || true") == ""


def test_it_says_what_it_is(image: str) -> None:
    """Labels of the OCI, a health check, and a worker as first process."""
    configuration = inspect(image)["Config"]
    labels = {name.removeprefix("org.opencontainers.image.") for name in configuration["Labels"]}
    assert labels >= {"title", "description", "licenses", "version", "revision"}
    assert configuration["Healthcheck"]["Test"][0] == "CMD"
    assert configuration["Entrypoint"] == ["headrace"]


def test_it_is_installed_from_the_pinned_versions(image: str) -> None:
    """Every distribution in it has the version of constraints.txt."""
    listing = (
        "import importlib.metadata as m;"
        "print(*(f'{d.name}=={d.version}' for d in m.distributions(path=[m.distribution('headrace')._path.parent])))"
    )
    installed = set(
        map(_normalised, docker("run", "--rm", "--entrypoint=python", image, "-c", listing).split())
    )
    pinned = {
        _normalised(line.split()[0]) for line in CONSTRAINTS.read_text().splitlines() if line[:1].isalnum()
    }
    assert {name for name in installed if not name.startswith("headrace==")} <= pinned
    assert any(name.startswith("onnxruntime==") for name in installed)


def _normalised(requirement: str) -> str:
    return requirement.lower().replace("_", "-").replace(".", "-")
