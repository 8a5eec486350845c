"""Collects this folder only when its path is given: it needs what `make test-clients` fetches."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from streams.config.settings import Settings
from tests.clients.environments import Environments, find
from tests.support.models.served_model import apply, spec_of
from tests.support.promotions.events import event
from tests.support.stack.services import MakeTopics
from tests.support.worker.process import StartWorker

_HERE = Path(__file__).parent
PARTITIONS = 3


@dataclass(frozen=True)
class Serving:
    """A worker that serves v1 of a model, which has v2 too."""

    settings: Settings
    model: str


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    asked = [Path(config.invocation_params.dir, argument.partition("::")[0]) for argument in config.args]
    return None if any(path.resolve().is_relative_to(_HERE) for path in asked) else True


@pytest.fixture(scope="session")
def environments() -> Environments:
    """Fails where `python -m tests.clients.environments` was not run."""
    return find()


@pytest.fixture
async def serving(topics: MakeTopics, database: str, start_worker: StartWorker, tmp_path: Path) -> Serving:
    settings = await topics(PARTITIONS, postgres_dsn=database)
    model = settings.topic_requests
    await apply(
        database,
        event("register", model, model=spec_of(tmp_path, "v1")),
        event("promote", model, version="v1"),
        event("register", model, model=spec_of(tmp_path, "v2")),
    )
    worker = start_worker(settings, "predict,control")
    await worker.ready()
    return Serving(settings, model)
