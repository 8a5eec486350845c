"""`headrace import`, run as its users do, with a scripted MLflow server; tests/servers/test_mlflow.py has a real one."""

import asyncio
import hashlib
import os
import pty
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import onnx
import orjson
import pytest
from onnx import helper

from schemas.events import JsonObject
from streams.cli.failures import REFUSED
from streams.config.settings import Settings
from tests.support.deadline import DEADLINE_SECONDS
from tests.support.models.onnx_files import FLOAT, constant, save_model, value
from tests.support.servers.http_server import answer
from tests.support.servers.mlflow_server import ScriptedMlflow, mlflow_server
from tests.support.stack.command import HEADRACE, Ended, environment, headrace
from tests.support.stack.services import MakeTopics

URI = "mlflow:/fraud/3"
INPUTS = [
    {"type": "long", "name": "age", "required": True},
    {"type": "double", "name": "income", "required": True},
]
OUTPUTS = [{"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1]}}]
INPUT_SCHEMA: JsonObject = {
    "type": "object",
    "required": ["features"],
    "properties": {
        "features": {
            "type": "array",
            "items": {"type": ["number", "null"]},
            "minItems": 2,
            "maxItems": 2,
            "prefixItems": [
                {"title": "age", "type": "integer"},
                {"title": "income", "type": ["number", "null"]},
            ],
        }
    },
}
RUN: JsonObject = {
    "info": {"user_id": "root"},
    "data": {
        "metrics": [
            {"key": "accuracy", "value": 0.91, "step": 2},
            {"key": "latency_p50_ms", "value": 2, "step": 0},
            {"key": "loss", "value": "NaN", "step": 0},
        ],
        "tags": [{"key": "mlflow.user", "value": "ann"}],
    },
}


def save_sum(path: Path) -> Path:
    """`features` FLOAT [N, any] → `score`, the sum of two of them."""
    return save_model(
        path,
        [helper.make_node("MatMul", ["features", "ones"], ["score"])],
        [value("features", FLOAT, ["N", None])],
        [value("score", FLOAT, ["N"])],
        [constant("ones", np.ones(2, np.float32))],
    )


@pytest.fixture
async def mlflow(tmp_path: Path) -> AsyncIterator[ScriptedMlflow]:
    """With a version that has a signature, and a run with metrics."""
    async with mlflow_server() as scripted:
        scripted.hold(save_sum(tmp_path / "m.onnx").read_bytes(), inputs=INPUTS, outputs=OUTPUTS)
        scripted.run = RUN
        yield scripted


def settings_for(mlflow: ScriptedMlflow, tmp_path: Path) -> Settings:
    return Settings(mlflow_url=mlflow.url, artifact_dir=str(tmp_path / "artifacts"))


async def imported(mlflow: ScriptedMlflow, tmp_path: Path, *arguments: str) -> Ended:
    """What would be registered, of a version that is whole."""
    return await headrace(
        *("import", URI, "--dry-run", *arguments), settings=settings_for(mlflow, tmp_path), cwd=tmp_path
    )


async def test_a_version_is_registered_with_all_that_mlflow_knows(
    mlflow: ScriptedMlflow, topics: MakeTopics, database: str, tmp_path: Path
) -> None:
    """Schemas, metrics and user, in the registry; a second time is refused as any version is."""
    own = {"mlflow_url": mlflow.url, "artifact_dir": str(tmp_path / "artifacts")}
    settings = await topics(1, postgres_dsn=database, **own)
    ended = await headrace("import", URI, "--version", "v3", "--direct", "--json", settings=settings)
    assert (ended.code, ended.stderr) == (0, "")
    assert (ended.documents[0]["status"], ended.documents[0]["model_name"]) == ("applied", "fraud")
    ((registered,),) = (await headrace("versions", "fraud", "--json", settings=settings)).documents
    assert (registered["version"], registered["status"], registered["framework"]) == ("v3", "staging", "onnx")
    assert registered["artifact_uri"] == URI
    assert registered["artifact_sha256"] == hashlib.sha256(mlflow.files["model.onnx"]).hexdigest()
    assert registered["input_schema"] == INPUT_SCHEMA
    assert registered["output_schema"] == {"type": "number"}
    assert registered["metrics"] == {"accuracy": 0.91, "latency_p50_ms": 2}
    assert registered["created_by"] == "ann"
    again = await headrace("import", URI, "--version", "v3", "--direct", settings=settings)
    assert (again.code, again.stdout) == (0, "unchanged: fraud is at revision 1, nothing takes traffic yet\n")


async def test_a_dry_run_prints_what_register_and_check_take(mlflow: ScriptedMlflow, tmp_path: Path) -> None:
    """Neither Kafka nor PostgreSQL is asked; name and version are MLflow's."""
    ended = await imported(mlflow, tmp_path)
    assert (ended.code, ended.stderr) == (0, "")
    (document,) = ended.documents
    assert (document["model_name"], document["model"]["version"]) == ("fraud", "3")
    checked = await headrace(
        *("check", "-", "--json"), stdin=ended.stdout.encode(), settings=settings_for(mlflow, tmp_path)
    )
    assert checked.code == 0, checked.stderr
    assert checked.documents[0]["warnings"] == []


async def test_a_name_that_only_mlflow_takes_needs_another(mlflow: ScriptedMlflow, tmp_path: Path) -> None:
    """Told before anything is fetched."""
    ended = await headrace(
        "import", "mlflow:/Fraud%20EU/3", "--json", settings=settings_for(mlflow, tmp_path)
    )
    assert (ended.code, ended.documents[0]["error"]["code"]) == (REFUSED, "INVALID_EVENT")
    assert "'Fraud EU' is no name for a model here" in ended.stderr
    assert "--model-name" in ended.stderr
    assert mlflow.requests == []
    renamed = await imported(mlflow, tmp_path, "--model-name", "eu-fraud", "--version", "no version!")
    assert renamed.code == REFUSED
    assert "model.version" in renamed.stderr
    renamed = await imported(mlflow, tmp_path, "--model-name", "eu-fraud", "--version", "2026-11")
    assert (renamed.documents[0]["model_name"], renamed.documents[0]["model"]["version"]) == (
        "eu-fraud",
        "2026-11",
    )


async def test_what_mlflow_does_not_know_is_told(mlflow: ScriptedMlflow, tmp_path: Path) -> None:
    """Without a signature and a run the file still says its inputs; the actor is the one who registered it."""
    mlflow.hold(mlflow.files["model.onnx"])
    mlflow.version = {"user_id": "registrar", "run_id": ""}
    ended = await imported(mlflow, tmp_path)
    model = ended.documents[0]["model"]
    assert model["input_schema"]["properties"] == {
        "features": {"type": "array", "items": {"type": ["number", "null"]}}
    }
    assert (model["metrics"], model["created_by"]) == ({}, "registrar")
    lines = ended.stderr.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("headrace: ") for line in lines)
    mlflow.version = {"run_id": "deleted"}
    ended = await imported(mlflow, tmp_path)
    assert "run deleted does not exist (status 404); metrics are left empty" in ended.stderr


@pytest.mark.parametrize("uri", ["mlflow:/fraud@champion", "models:/fraud@champion", "models:/fraud/3"])
async def test_an_alias_is_resolved_once(mlflow: ScriptedMlflow, tmp_path: Path, uri: str) -> None:
    """What is registered has the version's number: an alias may name another one tomorrow."""
    ended = await headrace("import", uri, "--dry-run", settings=settings_for(mlflow, tmp_path))
    assert ended.code == 0, ended.stderr
    model = ended.documents[0]["model"]
    assert (model["artifact_uri"], model["version"]) == (URI, "3")
    assert (f"{uri} is {URI} now" in ended.stderr) == ("@" in uri)


async def test_a_uri_that_names_no_version_is_told(mlflow: ScriptedMlflow, tmp_path: Path) -> None:
    """An alias that MLflow does not know, and what is no URI of MLflow."""
    settings = settings_for(mlflow, tmp_path)
    ended = await headrace("import", "mlflow:/fraud@nobody", "--dry-run", settings=settings)
    assert ended.code == 1
    assert "fraud@nobody does not exist" in ended.stderr
    ended = await headrace("import", "mlflow:/fraud/champion", "--dry-run", settings=settings)
    assert ended.code == 1
    assert "is no version of MLflow; write mlflow:/NAME/VERSION or mlflow:/NAME@ALIAS" in ended.stderr


async def test_a_version_of_pickles_is_refused_by_the_command(mlflow: ScriptedMlflow, tmp_path: Path) -> None:
    """With why, and what to do; nothing of it is fetched."""
    mlflow.files["MLmodel"] = b"flavors: {sklearn: {pickled_model: model.pkl}, python_function: {}}"
    ended = await imported(mlflow, tmp_path)
    assert (ended.code, ended.stdout) == (1, "")
    assert (
        f"{URI} has no ONNX flavour, only python_function, sklearn: pickles are never loaded" in ended.stderr
    )
    assert "export the model to ONNX, or serve it with a model server" in ended.stderr


async def test_a_model_in_two_files_is_refused(mlflow: ScriptedMlflow, tmp_path: Path) -> None:
    """MLflow logs models so by default; the message says how to change that."""
    path = save_sum(tmp_path / "two.onnx")
    onnx.save(onnx.load(path), path, save_as_external_data=True, size_threshold=0, convert_attribute=True)
    mlflow.hold(path.read_bytes(), inputs=INPUTS, outputs=OUTPUTS)
    ended = await imported(mlflow, tmp_path)
    assert ended.code == 1
    assert f"{URI}: the model keeps its weights in a second file" in ended.stderr
    assert "save_as_external_data=False" in ended.stderr


async def test_a_model_that_production_would_not_load_is_not_imported(
    mlflow: ScriptedMlflow, tmp_path: Path
) -> None:
    """It is loaded as a worker would."""
    mlflow.hold(b"\x08 no model at all")
    ended = await imported(mlflow, tmp_path)
    assert ended.code == 1
    assert "cannot be loaded as an ONNX model" in ended.stderr


async def test_an_mlflow_that_is_not_there_has_exit_code_3(mlflow: ScriptedMlflow, tmp_path: Path) -> None:
    """And one that is not set says what to set."""
    away = Settings(mlflow_url="http://127.0.0.1:1", artifact_dir=str(tmp_path / "artifacts"))
    ended = await headrace("import", URI, "--json", settings=away)
    assert (ended.code, ended.documents[-1]["error"]["code"]) == (3, "UNAVAILABLE")
    mlflow.answers["/model.onnx"] = answer(b"", 503)
    assert (await imported(mlflow, tmp_path)).code == 3
    unset = await headrace("import", URI, settings=Settings(), cwd=tmp_path)
    assert unset.code == 1
    assert "HEADRACE_MLFLOW_URL" in unset.stderr


async def test_a_bar_on_a_terminal_and_the_document_beside_it(mlflow: ScriptedMlflow, tmp_path: Path) -> None:
    """What is on standard output is JSON and nothing else."""
    terminal, other_end = pty.openpty()
    shown = bytearray()
    # A terminal holds few bytes; were they not read, the command would stop.
    asyncio.get_running_loop().add_reader(terminal, lambda: shown.extend(os.read(terminal, 65536)))
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            process = await asyncio.create_subprocess_exec(
                *(HEADRACE, "import", URI, "--dry-run"),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=other_end,
                cwd=tmp_path,
                env=environment(settings_for(mlflow, tmp_path)) | {"TERM": "xterm-256color"},
            )
            printed, _ = await process.communicate()
    finally:
        asyncio.get_running_loop().remove_reader(terminal)
        os.close(terminal)
        os.close(other_end)
    assert process.returncode == 0
    assert orjson.loads(printed)["model_name"] == "fraud"
    assert b"model file" in shown
