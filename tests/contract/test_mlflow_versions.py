"""Model versions of MLflow: the location of their files, and servers that deny access or return other content."""

import hashlib
from asyncio import StreamWriter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from schemas.errors import ArtifactError, UnavailableError
from tests.support.servers.http_server import HttpRequest, answer, http_server
from tests.support.servers.mlflow_server import ScriptedMlflow, mlflow_server
from workers.artifacts.mlflow import MlflowServer
from workers.artifacts.s3 import S3Server
from workers.artifacts.sources import ArtifactSources
from workers.artifacts.store import ArtifactStore

CONTENT = b"\x08 a model"
DIGEST = hashlib.sha256(CONTENT).hexdigest()
URI = "mlflow:/fraud/3"
SECRET = "a-secret-of-the-test"
DOWNLOAD_URI = "/get-download-uri"


@pytest.fixture
async def mlflow() -> AsyncIterator[ScriptedMlflow]:
    async with mlflow_server() as scripted:
        scripted.hold(CONTENT)
        yield scripted


async def fetch(
    folder: Path, mlflow: ScriptedMlflow | str, uri: str = URI, *, s3: S3Server | None = None, **server: Any
) -> bytes:
    """The version's file, with the registered digest."""
    url = mlflow if isinstance(mlflow, str) else mlflow.url
    sources = ArtifactSources(mlflow=MlflowServer(url, **server), s3=s3 or S3Server())
    store = ArtifactStore(folder / "cache", sources, max_bytes=10**6, cache_bytes=10**6)
    async with store.fetched(uri, DIGEST) as path:
        return path.read_bytes()


async def test_the_server_is_asked_where_and_what(mlflow: ScriptedMlflow, tmp_path: Path) -> None:
    """Three requests, also for a name that needs quoting."""
    assert await fetch(tmp_path, mlflow) == CONTENT
    assert [request.path for request in mlflow.requests] == [
        "/api/2.0/mlflow/model-versions/get-download-uri?name=fraud&version=3",
        "/api/2.0/mlflow-artifacts/artifacts/1/models/m-1/artifacts/MLmodel",
        "/api/2.0/mlflow-artifacts/artifacts/1/models/m-1/artifacts/model.onnx",
    ]
    assert not [request for request in mlflow.requests if "authorization" in request.headers]
    with pytest.raises(ArtifactError, match="does not exist"):
        await fetch(tmp_path / "other", mlflow, "mlflow:/credit%20risk/4")
    assert mlflow.requests[-1].path.endswith("?name=credit%20risk&version=4")


@pytest.mark.parametrize(
    ("server", "sent"),
    [
        ({"token": SecretStr(SECRET)}, f"Bearer {SECRET}"),
        ({"username": "ann", "password": SecretStr("pass")}, "Basic YW5uOnBhc3M="),
    ],
)
async def test_credentials_of_the_settings(
    mlflow: ScriptedMlflow, tmp_path: Path, server: dict[str, Any], sent: str
) -> None:
    """They are sent with every request to the server."""
    await fetch(tmp_path, mlflow, **server)
    assert [request.headers.get("authorization") for request in mlflow.requests] == [sent] * 3


async def test_a_server_below_a_path(mlflow: ScriptedMlflow, tmp_path: Path) -> None:
    """As behind a gateway."""

    async def gateway(request: HttpRequest, writer: StreamWriter) -> None:
        path = request.path.removeprefix("/mlflow")
        inner = HttpRequest(request.method, path, request.headers, request.body, request.connection)
        writer.write(answer(b"", 404) if path == request.path else mlflow.respond(inner))

    async with http_server(gateway) as url:
        assert await fetch(tmp_path, f"{url}/mlflow/") == CONTENT


async def test_files_that_are_elsewhere(mlflow: ScriptedMlflow, tmp_path: Path) -> None:
    """On this machine, on a web server, in S3: without the credentials of the MLflow server."""
    elsewhere: list[HttpRequest] = []

    async def note(request: HttpRequest, writer: StreamWriter) -> None:
        elsewhere.append(request)
        content = mlflow.files[request.path.rpartition("/")[2]]
        writer.write(answer(content, headers="last-modified: Wed, 25 Nov 2026 03:50:07 GMT\r\n"))

    folder = tmp_path / "a model's folder"
    for name, content in mlflow.files.items():
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    async with http_server(note) as url:
        locations = [folder.as_uri(), str(folder), f"{url}/1/artifacts", "s3://models/1/artifacts/"]
        for number, mlflow.location in enumerate(locations):
            got = await fetch(
                tmp_path / str(number), mlflow, s3=S3Server(endpoint=url), token=SecretStr(SECRET)
            )
            assert got == CONTENT
    assert [request.path for request in elsewhere] == [
        "/1/artifacts/MLmodel",
        "/1/artifacts/model.onnx",
        "/models/1/artifacts/MLmodel",
        "/models/1/artifacts/model.onnx",
    ]
    assert not [request for request in elsewhere if "authorization" in request.headers]


@pytest.mark.parametrize(
    ("location", "told"),
    [
        ("gs://bucket/1/artifacts", "has its files in gs:.*--serve-artifacts"),
        ("dbfs:/databricks/models", "has its files in dbfs:"),
        ("mlflow:/fraud/3", "has its files in mlflow:"),
        ("models:/m-1", "has its files in models:"),
        ("relative/folder", "has its files in a folder:"),
        ("mlflow-artifacts://elsewhere.test/1/artifacts", "is on another server, elsewhere.test"),
        ("http://elsewhere.test/1/artifacts", "list it in HEADRACE_ARTIFACT_HOSTS"),
        ("http://[", "is not a URI"),
        ("", "no location"),
        (None, "no location"),
        (3, "no location"),
    ],
)
async def test_places_that_nothing_is_fetched_from(
    mlflow: ScriptedMlflow, tmp_path: Path, location: Any, told: str
) -> None:
    """A registry entry cannot direct a worker to other hosts; the message says what to do."""
    mlflow.location = location
    with pytest.raises(ArtifactError, match=told):
        await fetch(tmp_path, mlflow)


@pytest.mark.parametrize(
    ("status", "error", "told"),
    [
        (401, ArtifactError, "access is denied.*HEADRACE_MLFLOW_TOKEN"),
        (403, ArtifactError, "access is denied.*HEADRACE_MLFLOW_TOKEN"),
        (404, ArtifactError, "does not exist"),
        (302, ArtifactError, "redirects are not followed"),
        (503, UnavailableError, "try again later"),
    ],
)
@pytest.mark.parametrize("end", [DOWNLOAD_URI, "/MLmodel", "/model.onnx"])
async def test_server_statuses(
    mlflow: ScriptedMlflow, tmp_path: Path, *, end: str, status: int, error: type[Exception], told: str
) -> None:
    """At each of the requests; neither credentials nor response bodies are quoted."""
    mlflow.answers[end] = answer(
        {"error_code": "IN_ITS_OWN_WORDS"}, status, "location: http://127.0.0.1:9/x\r\n"
    )
    with pytest.raises(error, match=told) as failure:
        await fetch(tmp_path, mlflow, token=SecretStr(SECRET))
    assert URI in str(failure.value)
    assert SECRET not in str(failure.value)
    assert "IN_ITS_OWN_WORDS" not in str(failure.value)


@pytest.mark.parametrize("body", [b"<html>a login page</html>", b"[]", b"", b"null", b"{"])
async def test_what_is_no_mlflow(mlflow: ScriptedMlflow, tmp_path: Path, body: bytes) -> None:
    """Another program at the address that answers requests."""
    mlflow.answers[DOWNLOAD_URI] = answer(body)
    with pytest.raises(ArtifactError, match="is not an MLflow server by its response"):
        await fetch(tmp_path, mlflow)


async def test_no_server_at_all(tmp_path: Path) -> None:
    """The failure is temporary."""
    async with mlflow_server() as gone:
        pass
    with pytest.raises(UnavailableError, match="does not answer"):
        await fetch(tmp_path, gone)


async def test_an_mlmodel_without_end_is_not_read(mlflow: ScriptedMlflow, tmp_path: Path) -> None:
    """It is read into memory, so its size is limited."""
    mlflow.files["MLmodel"] = b"#" * (1024 * 1024 + 1)
    with pytest.raises(ArtifactError, match="its metadata has more than 1048576 bytes"):
        await fetch(tmp_path, mlflow)


async def test_a_version_of_pickles_is_refused(mlflow: ScriptedMlflow, tmp_path: Path) -> None:
    """Its files are not requested."""
    mlflow.files["MLmodel"] = b"flavors: {sklearn: {pickled_model: model.pkl}}"
    with pytest.raises(ArtifactError, match="no ONNX flavour, only sklearn: pickles are never loaded"):
        await fetch(tmp_path, mlflow)
    assert mlflow.requests[-1].path.endswith("/MLmodel")


async def test_another_file_than_the_registered_one(mlflow: ScriptedMlflow, tmp_path: Path) -> None:
    """An MLflow version can be overwritten; a registered version cannot."""
    mlflow.files["model.onnx"] = CONTENT + b"!"
    with pytest.raises(ArtifactError, match=f"{URI} has SHA-256 .*{DIGEST} is registered"):
        await fetch(tmp_path, mlflow)


async def test_no_address_is_set(tmp_path: Path) -> None:
    """The message has the setting."""
    store = ArtifactStore(tmp_path, ArtifactSources(), max_bytes=1, cache_bytes=1)
    with pytest.raises(ArtifactError, match="HEADRACE_MLFLOW_URL"):
        async with store.fetched(URI, DIGEST):
            pass


@pytest.mark.parametrize(
    "uri",
    ["mlflow:/fraud", "mlflow:/fraud/latest", "mlflow://host/fraud/3", "mlflow:/a/b/3", "mlflow:fraud/3"],
)
async def test_what_is_no_version(mlflow: ScriptedMlflow, tmp_path: Path, uri: str) -> None:
    """An alias or a stage may be another version later."""
    with pytest.raises(ArtifactError, match="write mlflow:/NAME/VERSION"):
        await fetch(tmp_path, mlflow, uri)
    assert mlflow.requests == []
