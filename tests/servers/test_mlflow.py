"""Models that people logged, from a real MLflow server to a registered version that answers."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from streams.config.settings import Settings
from tests.servers.conftest import RunningServers, running
from tests.servers.stores import Mlflow, Moto
from tests.support.stack.command import headrace
from tests.support.stack.services import MakeTopics
from tests.support.worker.process import StartWorker

SERVERS = (Mlflow, Moto)
# To start it and to log models with it takes a minute on a busy machine, the first time.
pytestmark = pytest.mark.timeout(300)
FEATURES = {"type": "array", "items": {"type": ["number", "null"]}, "minItems": 3, "maxItems": 3}
SCORE = {"type": "array", "items": {"type": "number"}, "minItems": 1, "maxItems": 1}


@pytest.fixture(scope="module")
def mlflow(running_servers: RunningServers) -> Mlflow:
    return running(running_servers, Mlflow)


@pytest.fixture(scope="module")
def logged(mlflow: Mlflow) -> dict[str, Any]:
    """Who logged what: `user`, and the URIs of `versions`."""
    found: dict[str, Any] = mlflow.fill()
    return found


async def test_from_mlflow_to_a_prediction(
    mlflow: Mlflow,
    *,
    logged: dict[str, Any],
    topics: MakeTopics,
    database: str,
    start_worker: StartWorker,
    tmp_path: Path,
) -> None:
    """A worker fetches the file anew, from MLflow."""
    settings = await topics(
        1, postgres_dsn=database, mlflow_url=mlflow.url, artifact_dir=str(tmp_path / "artifacts")
    )
    uri = logged["versions"]["columns"]
    ended = await headrace("import", uri, "--version", "v2", "--json", "--direct", settings=settings)
    assert ended.code == 0, ended.stderr
    assert (await headrace("promote", "fraud", "v2", "--direct", settings=settings)).code == 0
    of_a_worker = settings.model_copy(update={"artifact_dir": str(tmp_path / "of a worker")})
    await start_worker(of_a_worker).ready()
    given = ("--user", "u1", "--input", '{"features": [1, 0.5, 2]}')
    answered = await headrace("predict", "fraud", *given, settings=settings)
    assert (answered.code, answered.documents) == (0, [[8.0]]), answered.stderr
    whole = ("--user", "u1", "--input", '{"features": [1.5, 0.5, 2]}')
    assert "INVALID_INPUT" in (await headrace("predict", "fraud", *whole, settings=settings)).stderr


async def dry_run(mlflow: Mlflow, folder: Path, uri: str, **settings: Any) -> Any:
    """The fields that would be registered."""
    mine = Settings(mlflow_url=mlflow.url, artifact_dir=str(folder / "artifacts"), **settings)
    ended = await headrace("import", uri, "--dry-run", settings=mine, cwd=folder)
    assert ended.code == 0, ended.stderr
    return ended.documents[0]["model"]


async def test_what_is_taken_over(mlflow: Mlflow, logged: dict[str, Any], tmp_path: Path) -> None:
    """Both kinds of signature, and a file that has none; metrics of the run and its user."""
    tensors = await dry_run(mlflow, tmp_path, logged["versions"]["tensors"])
    columns = await dry_run(mlflow, tmp_path, logged["versions"]["columns"])
    unsigned = await dry_run(mlflow, tmp_path, logged["versions"]["unsigned"])
    for model in (tensors, columns, unsigned):
        assert model["metrics"] == {"accuracy": 0.91}
        assert model["created_by"] == logged["user"]
        assert model["output_schema"] == SCORE
    assert tensors["input_schema"]["properties"] == {"features": FEATURES}
    assert unsigned["input_schema"]["properties"] == {"features": FEATURES}
    titles = [column["title"] for column in columns["input_schema"]["properties"]["features"]["prefixItems"]]
    assert titles == ["age", "income", "ratio"]
    assert tensors["artifact_sha256"] == columns["artifact_sha256"]


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("pickled", "no ONNX flavour, only python_function, sklearn: pickles are never loaded"),
        ("in two files", "save_as_external_data=False"),
        ("missing", "does not exist"),
    ],
)
async def test_what_is_refused(
    mlflow: Mlflow, logged: dict[str, Any], tmp_path: Path, what: str, told: str
) -> None:
    """With what to do."""
    settings = Settings(mlflow_url=mlflow.url, artifact_dir=str(tmp_path / "artifacts"))
    uri = logged["versions"].get(what, "mlflow:/missing/1")
    ended = await headrace("import", uri, "--dry-run", settings=settings, cwd=tmp_path)
    assert ended.code == 1
    assert told in ended.stderr


async def test_files_that_mlflow_keeps_in_s3(
    mlflow: Mlflow, running_servers: RunningServers, tmp_path: Path
) -> None:
    """They are fetched from there, with the credentials for S3."""
    moto = running(running_servers, Moto)
    ((key_id, secret), *_) = moto.fill().values()
    found = mlflow.fill(
        "s3://models/mlflow",
        MLFLOW_S3_ENDPOINT_URL=moto.url,
        AWS_ACCESS_KEY_ID=key_id,
        AWS_SECRET_ACCESS_KEY=secret,
        AWS_DEFAULT_REGION="eu-central-1",
    )
    model = await dry_run(
        mlflow,
        tmp_path,
        found["versions"]["elsewhere"],
        s3_endpoint=moto.url,
        s3_region="eu-central-1",
        s3_access_key_id=key_id,
        s3_secret_access_key=SecretStr(secret),
    )
    assert model["input_schema"]["properties"] == {"features": FEATURES}
