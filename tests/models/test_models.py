"""Each row of the table in docs/models.md: a model is trained, converted, registered as it describes itself, and asked.

Its answers must be what its own library predicts.
"""

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
import pytest_asyncio

from schemas.errors import SetupError
from schemas.events import JsonObject, PredictResponse
from schemas.models import ModelSpec
from streams.checking.agreement import differences
from streams.config.settings import Settings
from streams.models.backend_loader import BackendLoader, warm
from tests.bench.venvs import LackingError
from tests.models.exporting import Exported, environment_of, export
from tests.support.deadline import DEADLINE_SECONDS
from tests.support.docs.markdown import ROOT
from tests.support.models.served_model import apply
from tests.support.promotions.events import event
from tests.support.stack.services import StackAddresses, own_database, own_topics
from tests.support.worker.asking import PARTITIONS, asking
from tests.support.worker.process import worker_processes

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("models")]

# The last column of the table.
CASES = re.findall(r"\| `([\w-]+)` \|$", (ROOT / "docs/models.md").read_text(encoding="utf-8"), re.MULTILINE)
ENVIRONMENTS = sorted(set(map(environment_of, CASES)))


@dataclass
class Outcome:
    """What was exported and answered, by case; and why an environment has nothing."""

    exported: dict[str, Exported] = field(default_factory=dict)
    answers: dict[str, list[PredictResponse]] = field(default_factory=dict)
    failed: dict[str, SetupError] = field(default_factory=dict)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def outcome(stack: StackAddresses, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Outcome]:
    """One worker serves all models."""
    found = Outcome()
    folders = [tmp_path_factory.mktemp(name) for name in ENVIRONMENTS]
    exports = [asyncio.to_thread(export, *each) for each in zip(ENVIRONMENTS, folders, strict=True)]
    made = await asyncio.gather(*exports, return_exceptions=True)
    for environment, cases in zip(ENVIRONMENTS, made, strict=True):
        if isinstance(cases, SetupError):
            found.failed[environment] = cases
        elif isinstance(cases, BaseException):
            raise cases
        else:
            found.exported |= cases
    async with own_database(stack) as dsn, own_topics(stack) as make_topics:
        artifacts = str(tmp_path_factory.mktemp("artifacts"))
        settings = await make_topics(PARTITIONS, postgres_dsn=dsn, artifact_dir=artifacts)
        for case, model in found.exported.items():
            spec = await described(model, settings)
            await apply(dsn, event("register", case, model=spec), event("promote", case, version="v1"))
        with worker_processes() as start_worker:
            await start_worker(settings, "predict").ready()
            async with asking(settings) as requests:
                for case, model in found.exported.items():
                    ids = [(await requests.send(case, [0], input=value))[0] for value in model.inputs]
                    found.answers[case] = await requests.answers(ids)
        yield found


async def described(model: Exported, settings: Settings) -> JsonObject:
    """A version with the schemas that follow from its model, and nothing else."""
    fields = {
        "version": "v1",
        "framework": "onnx",
        "artifact_uri": model.path.as_uri(),
        "artifact_sha256": hashlib.sha256(model.path.read_bytes()).hexdigest(),
        "input_schema": {},
        "output_schema": {},
        **({} if model.outputs is None else {"mapping": {"outputs": model.outputs}}),
    }
    backend = await BackendLoader(settings)("m", ModelSpec.model_validate(fields))
    try:
        await warm(backend, timeout_seconds=DEADLINE_SECONDS)
        description = await backend.describe()
        assert description is not None
    finally:
        await backend.close()
    return fields | {
        "input_schema": description.input_schema(),
        "output_schema": description.output_schema(),
    }


@pytest.mark.parametrize("case", CASES)
async def test_predictions_are_those_of_the_library(outcome: Outcome, case: str) -> None:
    """Labels and structure exactly, numbers within the precision of the model."""
    failed = outcome.failed.get(environment_of(case))
    if isinstance(failed, LackingError):
        pytest.skip(str(failed))
    assert failed is None, failed
    expected, answers = outcome.exported[case].predictions, outcome.answers[case]
    assert [answer.error for answer in answers] == [None] * len(expected)
    predictions = [answer.predictions for answer in answers]
    assert list(differences(expected, predictions)) == []


async def test_the_table_has_every_model(outcome: Outcome) -> None:
    """Each that is exported is in the table."""
    assert set(outcome.exported) <= set(CASES)
    assert len(CASES) > len(ENVIRONMENTS)
