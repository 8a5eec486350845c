"""Model versions of an MLflow registry: `mlflow:/NAME/VERSION`.

The tracking server's REST interface returns the location of a version's files: on the server itself
(`mlflow-artifacts:`), in S3, on a web server, or on this machine. Files outside the server are read by
their own source. The server's address and credentials are the operator's settings.
"""

import asyncio
import re
from base64 import b64encode
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlencode, urlsplit

import orjson
from pydantic import SecretStr

from schemas.errors import ArtifactError, UnavailableError
from schemas.events import JsonObject
from workers.artifacts.http_files import HttpFile
from workers.artifacts.mlmodel import MAX_MLMODEL_BYTES, MlModel, read_mlmodel
from workers.artifacts.port import ArtifactSource, ArtifactStream
from workers.network.endpoints import Outbound

_URI = re.compile(r"mlflow:/([^/:]+)/([0-9]+)")
# As MLflow writes them too: models:/NAME/VERSION, models:/NAME@ALIAS.
_IMPORTED = re.compile(r"(?:mlflow|models):/([^/:@]+)(?:/([0-9]+)|@([^/:@]+))")
_API = "/api/2.0/mlflow"
_ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"
# Some 30 ms of parsing.
_MAX_ANSWER_BYTES = 4 * 1024 * 1024
_ANSWER_SECONDS = 30.0
_DENIED = "see HEADRACE_MLFLOW_TOKEN, or HEADRACE_MLFLOW_USERNAME and HEADRACE_MLFLOW_PASSWORD"
# The operator configured the server, so it may have any address.
_ANYWHERE = ("0.0.0.0/0", "::/0")


@dataclass(frozen=True, slots=True)
class MlflowServer:
    """A tracking server, with a bearer token, a user name and password, or no credentials."""

    url: str
    token: SecretStr | None = None
    username: str | None = None
    password: SecretStr | None = None
    ca_file: str | None = None

    async def get(self, path: str, shown: str, **parameters: str) -> JsonObject:
        """The response of the REST interface to GET; `shown` names the object in errors.

        Raises ArtifactError when the object does not exist or access is denied, UnavailableError when the
        server does not answer.
        """
        file = self._file(f"{_API}/{path}?{urlencode(parameters, quote_via=quote)}", shown)
        content = await read_small(file, _MAX_ANSWER_BYTES)
        try:
            answer = orjson.loads(content)
        except orjson.JSONDecodeError:
            answer = None
        if not isinstance(answer, dict):
            raise ArtifactError(f"{shown}: {self.url} is not an MLflow server by its response")
        return answer

    async def number_of(self, name: str, alias: str) -> str:
        """The version that an alias of a model names now; raises as `get`."""
        shown = f"{name}@{alias}"
        answer = await self.get("registered-models/alias", shown, name=name, alias=alias)
        number = _object(answer.get("model_version")).get("version")
        if not str(number).isdigit():
            raise ArtifactError(f"{shown}: MLflow names no version")
        return str(number)

    def artifact(self, path: str, shown: str) -> HttpFile:
        """A file that the server itself serves."""
        return self._file(f"{_ARTIFACTS}/{quote(path)}", shown)

    def _file(self, path_and_query: str, shown: str) -> HttpFile:
        # The host is allowed with its port only, so the credentials are sent nowhere else.
        outbound = Outbound(
            hosts=[urlsplit(self.url).netloc],
            networks=_ANYWHERE,
            ca_file=self.ca_file,
            setting="HEADRACE_MLFLOW_URL",
        )
        return HttpFile(self.url.rstrip("/") + path_and_query, outbound, shown, _DENIED, self._headers())

    def _headers(self) -> Mapping[str, str]:
        if self.token is not None:
            return {"authorization": f"Bearer {self.token.get_secret_value()}"}
        if self.username is not None and self.password is not None:
            pair = f"{self.username}:{self.password.get_secret_value()}"
            return {"authorization": f"Basic {b64encode(pair.encode()).decode()}"}
        return {}


@dataclass(frozen=True, slots=True)
class MlflowVersion:
    """One version of a model in the registry; `source_of` returns the source of files outside the server."""

    uri: str
    name: str
    number: str
    server: MlflowServer
    source_of: Callable[[str], ArtifactSource]

    @classmethod
    def of(
        cls, uri: str, server: MlflowServer | None, source_of: Callable[[str], ArtifactSource]
    ) -> "MlflowVersion":
        """The version of a URI; raises ArtifactError for other URIs, and without a server in the settings."""
        match = _URI.fullmatch(uri)
        if match is None:
            raise ArtifactError("artifact_uri is not an MLflow model version; write mlflow:/NAME/VERSION")
        if server is None:
            raise ArtifactError(f"{uri} needs the address of an MLflow server in HEADRACE_MLFLOW_URL")
        return cls(uri, unquote(match[1]), match[2], server, source_of)

    async def details(self) -> JsonObject:
        """The registry's entry of the version; raises as `MlflowServer.get`."""
        answer = await self.server.get("model-versions/get", self.uri, name=self.name, version=self.number)
        return _object(answer.get("model_version"))

    async def run(self, run_id: str) -> JsonObject:
        """The run that produced the version; raises as `MlflowServer.get`."""
        answer = await self.server.get("runs/get", f"{self.uri}: run {run_id}", run_id=run_id)
        return _object(answer.get("run"))

    async def mlmodel(self) -> MlModel:
        """The version's `MLmodel`; raises ArtifactError and UnavailableError."""
        return (await self._locate())[1]

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[ArtifactStream, None]:
        location, mlmodel = await self._locate()
        async with self._below(location, mlmodel.onnx_path).open() as stream:
            yield stream

    async def _locate(self) -> tuple[str, MlModel]:
        """The location of the version's files, and its MLmodel."""
        answer = await self.server.get(
            "model-versions/get-download-uri", self.uri, name=self.name, version=self.number
        )
        location = answer.get("artifact_uri")
        if not isinstance(location, str) or not location:
            raise ArtifactError(f"{self.uri} has no files: MLflow returns no location")
        content = await read_small(self._below(location, "MLmodel"), MAX_MLMODEL_BYTES)
        # Parsing 1 MiB of YAML takes a second.
        return location, await asyncio.to_thread(read_mlmodel, content, self.uri)

    def _below(self, location: str, path: str) -> ArtifactSource:
        """A file in the version's folder; raises ArtifactError for a location of an unsupported kind."""
        base = location.rstrip("/")
        try:
            parts = urlsplit(base)
        except ValueError:
            raise ArtifactError(f"{self.uri}: its location in MLflow is not a URI") from None
        if parts.scheme == "mlflow-artifacts":
            if parts.netloc and parts.netloc != urlsplit(self.server.url).netloc:
                raise ArtifactError(f"{self.uri} is on another server, {parts.hostname}, which is not called")
            return self.server.artifact(f"{unquote(parts.path).strip('/')}/{path}", self.uri)
        if parts.scheme == "s3":
            return self.source_of(f"{base}/{path}")
        if parts.scheme in ("file", "http", "https"):
            return self.source_of(f"{base}/{quote(path)}")
        if not parts.scheme and base.startswith("/"):
            return self.source_of(Path(base, path).as_uri())
        raise ArtifactError(
            f"{self.uri} has its files in {parts.scheme or 'a folder'}:, which is not supported; let the MLflow "
            "server serve them (--serve-artifacts)"
        )


async def version_uri(uri: str, server: MlflowServer | None) -> str:
    """The URI `mlflow:/NAME/VERSION` of what an operator names, by number or by alias.

    Raises ArtifactError for other URIs, without a server in the settings, and as `MlflowServer.get`.
    """
    named = _IMPORTED.fullmatch(uri)
    if named is None:
        raise ArtifactError(
            f"{uri!r} is no version of MLflow; write mlflow:/NAME/VERSION or mlflow:/NAME@ALIAS"
        )
    name, number, alias = named.groups()
    if number is None:
        if server is None:
            raise ArtifactError(f"{uri} needs the address of an MLflow server in HEADRACE_MLFLOW_URL")
        number = await server.number_of(unquote(name), unquote(alias))
    return f"mlflow:/{name}/{number}"


async def read_small(source: ArtifactSource, max_bytes: int) -> bytes:
    """The content of a file of at most `max_bytes`; raises ArtifactError for a larger one, and as its source."""
    content = bytearray()
    try:
        async with (
            asyncio.timeout(_ANSWER_SECONDS),
            source.open() as stream,
            aclosing(stream.chunks) as chunks,
        ):
            async for chunk in chunks:
                content += chunk
                if len(content) > max_bytes:
                    raise ArtifactError(f"{source.uri}: its metadata has more than {max_bytes} bytes")
    except TimeoutError:
        raise UnavailableError(f"{source.uri}: no answer within {_ANSWER_SECONDS:g} s") from None
    return bytes(content)


def _object(value: Any) -> JsonObject:
    return value if isinstance(value, dict) else {}
