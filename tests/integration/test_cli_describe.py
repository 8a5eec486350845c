"""`headrace describe` and `register MODEL VERSION MODEL_FILE`: from an ONNX file to a version that answers."""

import hashlib
import json
from asyncio import StreamWriter
from pathlib import Path

import orjson
import pytest
from onnx import helper

from streams.cli.failures import REFUSED
from streams.config.settings import Settings
from tests.support.models.onnx_files import BOOL, FLOAT, INT64, STRING, save_model, value
from tests.support.servers.http_server import HttpRequest, http_server
from tests.support.stack.command import headrace
from tests.support.stack.services import MakeTopics
from tests.support.worker.process import StartWorker


def save_scores(path: Path) -> Path:
    """`x` FLOAT [N, 3] and `y` FLOAT [N, 3] → `sum` and `positive`."""
    return save_model(
        path,
        [
            helper.make_node("Add", ["x", "y"], ["sum"]),
            helper.make_node("Abs", ["sum"], ["positive"]),
        ],
        [value("x", FLOAT, ["N", 3]), value("y", FLOAT, ["N", 3])],
        [value("sum", FLOAT, ["N", 3]), value("positive", FLOAT, ["N", 3])],
    )


def settings_for(folder: Path, **fields: str) -> Settings:
    return Settings.model_validate({"artifact_dir": str(folder / "artifacts"), **fields})


async def test_what_is_described_is_accepted_as_it_stands(tmp_path: Path) -> None:
    """Digest, schemas and an example with its predictions; neither Kafka nor PostgreSQL is asked."""
    path = save_scores(tmp_path / "scores.onnx")
    described = await headrace(
        *("describe", "scores.onnx", "--model", "scores", "--version", "v2"),
        *("--description", "für den Test", "--tag", "git=1de59e3", "--tag", "a=b=c"),
        settings=settings_for(tmp_path),
        cwd=tmp_path,
    )
    assert (described.code, described.stderr) == (0, "")
    document = orjson.loads(described.stdout)
    model = document["model"]
    assert (document["model_name"], model["version"], model["framework"]) == ("scores", "v2", "onnx")
    assert (model["artifact_uri"], model["artifact_sha256"]) == (
        path.as_uri(),
        hashlib.sha256(path.read_bytes()).hexdigest(),
    )
    assert (model["description"], model["tags"]) == ("für den Test", {"git": "1de59e3", "a": "b=c"})
    assert model["example"]["predictions"] == {"sum": [0.0] * 3, "positive": [0.0] * 3}
    checked = await headrace(
        *("check", "-", "--json"), stdin=described.stdout.encode(), settings=settings_for(tmp_path)
    )
    assert checked.code == 0, checked.stderr
    (findings,) = checked.documents
    assert findings["warnings"] == []
    assert findings["input_schema"] == model["input_schema"]
    assert findings["output_schema"] == model["output_schema"]
    assert not findings["example"]["made"]


async def test_a_file_on_a_web_server_keeps_its_uri(tmp_path: Path) -> None:
    """The URI is what workers will fetch."""
    content = save_scores(tmp_path / "scores.onnx").read_bytes()

    async def send(_: HttpRequest, writer: StreamWriter) -> None:
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content)

    async with http_server(send) as server:
        url = f"{server}/scores.onnx"
        described = await headrace(
            *("describe", url, "--model", "scores", "--version", "v1"), settings=settings_for(tmp_path)
        )
    assert orjson.loads(described.stdout)["model"]["artifact_uri"] == url


async def test_a_model_that_fails_for_a_made_up_example_gets_none(tmp_path: Path) -> None:
    """The rest is described, and a note says what is missing."""
    path = save_model(
        tmp_path / "m.onnx",
        [helper.make_node("Log", ["x"], ["y"])],
        [value("x", FLOAT, ["N"])],
        [value("y", FLOAT, ["N"])],
    )
    described = await headrace(
        "describe", str(path), "--model", "m", "--version", "v1", settings=settings_for(tmp_path)
    )
    assert described.code == 0
    assert "example" not in orjson.loads(described.stdout)["model"]
    assert described.stderr.startswith("headrace: the model does not predict a made-up example: ")


@pytest.mark.parametrize("element", [INT64, STRING, BOOL])
async def test_every_type_gets_an_example(tmp_path: Path, element: int) -> None:
    """That the model itself predicts."""
    path = save_model(
        tmp_path / "m.onnx",
        [helper.make_node("Identity", ["x"], ["y"])],
        [value("x", element, ["N", 2])],
        [value("y", element, ["N", 2])],
    )
    described = await headrace(
        "describe", str(path), "--model", "m", "--version", "v1", settings=settings_for(tmp_path)
    )
    example = orjson.loads(described.stdout)["model"]["example"]
    assert example["input"]["x"] == example["predictions"]


async def test_what_cannot_be_described_is_told(tmp_path: Path) -> None:
    """A missing file is wrong usage; a file that no worker would serve, and a name that none has, are not."""
    (tmp_path / "no.onnx").write_text("not a model")
    for arguments, code, told in (
        (["absent.onnx", "--model", "m", "--version", "v1"], 2, "absent.onnx is not a file"),
        (["no.onnx", "--model", "m", "--version", "v1"], 1, "no.onnx"),
        (["no.onnx", "--model", "m", "--version", "v1", "--tag", "x"], 2, "NAME=VALUE"),
    ):
        ended = await headrace("describe", *arguments, settings=settings_for(tmp_path), cwd=tmp_path)
        assert (ended.code, ended.stdout) == (code, "")
        assert told in ended.stderr
    save_scores(tmp_path / "scores.onnx")
    ended = await headrace(
        *("describe", "scores.onnx", "--model", "No Model", "--version", "v1"),
        settings=settings_for(tmp_path),
        cwd=tmp_path,
    )
    assert (ended.code, ended.stdout) == (REFUSED, "")
    assert "model_name" in ended.stderr
    for arguments in (
        [],
        ["m", "v1"],
        ["m", "v1", "scores.onnx", "-f", "x.json"],
        ["-f", "x.json", "--tag", "a=b"],
    ):
        ended = await headrace("register", *arguments, settings=settings_for(tmp_path), cwd=tmp_path)
        assert (ended.code, ended.stdout) == (2, "")


async def test_a_file_is_registered_and_answers(
    topics: MakeTopics, database: str, start_worker: StartWorker, tmp_path: Path
) -> None:
    """In one go, without a registration file; its words for people are listed."""
    path = save_scores(tmp_path / "scores.onnx")
    settings = await topics(1, postgres_dsn=database, artifact_dir=str(tmp_path / "artifacts"))
    model = f"scores-{tmp_path.name.lower().replace('_', '-')}"[:60]
    worker = start_worker(settings, "predict")
    registered = await headrace(
        *(
            "register",
            model,
            "v1",
            str(path),
            "--description",
            "the first",
            "--tag",
            "git=1de59e3",
            "--direct",
        ),
        settings=settings,
    )
    assert registered.stdout == f"applied: {model} is at revision 1, nothing takes traffic yet\n"
    assert (await headrace("promote", model, "v1", "--direct", settings=settings)).code == 0
    listed = await headrace("versions", model, settings=settings)
    assert "the first, git=1de59e3" in listed.stdout
    await worker.ready()
    given = json.dumps({"x": [1, 2, 3], "y": [-2, 0, 1]})
    answered = await headrace("predict", model, "--user", "u", "--input", given, settings=settings)
    assert orjson.loads(answered.stdout) == {"sum": [-1.0, 2.0, 4.0], "positive": [1.0, 2.0, 4.0]}
