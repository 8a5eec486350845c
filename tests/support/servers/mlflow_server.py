"""An MLflow tracking server as far as Headrace asks one, whose answers a test can change.

tests/servers/test_mlflow.py asks a real one.
"""

from asyncio import StreamWriter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import orjson
import yaml

from tests.support.servers.http_server import HttpRequest, answer, http_server

_FOLDER = "/1/models/m-1/artifacts"


@dataclass
class ScriptedMlflow:
    """One model version, `fraud` 3 of run `r-1`.

    `files` are below its folder; `answers` are whole responses by the end of the path, instead of its own.
    """

    url: str = ""
    location: Any = f"mlflow-artifacts:{_FOLDER}"
    files: dict[str, bytes] = field(default_factory=dict)
    answers: dict[str, bytes] = field(default_factory=dict)
    version: dict[str, Any] = field(default_factory=lambda: {"run_id": "r-1", "user_id": "registrar"})
    run: dict[str, Any] = field(default_factory=dict)
    requests: list[HttpRequest] = field(default_factory=list)

    def hold(self, content: bytes, **signature: Any) -> None:
        """Have an ONNX file in the version's folder, with an MLmodel beside it."""
        sides = {side: orjson.dumps(tensors).decode() for side, tensors in signature.items()}
        mlmodel = {"flavors": {"onnx": {"data": "model.onnx"}, "python_function": {}}, "signature": sides}
        self.files = {"MLmodel": yaml.safe_dump(mlmodel).encode(), "model.onnx": content}

    def respond(self, request: HttpRequest) -> bytes:
        self.requests.append(request)
        parts = urlsplit(request.path)
        path = unquote(parts.path)
        for end, response in self.answers.items():
            if path.endswith(end):
                return response
        asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
        known = asked == {"name": "fraud", "version": "3"}
        if path == "/api/2.0/mlflow/model-versions/get" and known:
            return answer({"model_version": {"name": "fraud", "version": "3", **self.version}})
        if path == "/api/2.0/mlflow/model-versions/get-download-uri" and known:
            return answer({"artifact_uri": self.location})
        if path == "/api/2.0/mlflow/registered-models/alias" and asked == {
            "name": "fraud",
            "alias": "champion",
        }:
            return answer({"model_version": {"name": "fraud", "version": "3"}})
        if path == "/api/2.0/mlflow/runs/get" and asked == {"run_id": "r-1"}:
            return answer({"run": self.run})
        name = path.removeprefix(f"/api/2.0/mlflow-artifacts/artifacts{_FOLDER}/")
        return answer(self.files[name]) if name in self.files else answer({"error_code": "NONE"}, 404)


@asynccontextmanager
async def mlflow_server() -> AsyncIterator[ScriptedMlflow]:
    """A server that has the version, but no file yet."""
    scripted = ScriptedMlflow()

    async def handle(request: HttpRequest, writer: StreamWriter) -> None:
        writer.write(scripted.respond(request))

    async with http_server(handle) as url:
        scripted.url = url
        yield scripted
