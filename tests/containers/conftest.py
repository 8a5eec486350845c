"""Collected only when it is asked for by its path: it needs an engine, as `make test-containers` brings."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.containers.composed import Composed

_HERE = Path(__file__).parent


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    asked = [Path(config.invocation_params.dir, argument.partition("::")[0]) for argument in config.args]
    return None if any(path.resolve().is_relative_to(_HERE) for path in asked) else True


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(_HERE):
            # One system for all, built and started once; that takes longer than other fixtures.
            item.add_marker(pytest.mark.xdist_group("containers"))
            item.add_marker(pytest.mark.timeout(600))


@pytest.fixture(scope="session")
def composed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Composed]:
    """The whole system, built from this checkout, and healthy when it is handed out."""
    models = tmp_path_factory.mktemp("models")
    # Workers are another user, and read it.
    models.chmod(0o755)
    system = Composed(models)
    try:
        system.compose("build")
        system.up()
        yield system
    finally:
        system.remove()
