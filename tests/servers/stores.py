"""Servers that keep model files: an S3-compatible store, and MLflow with its registry of models."""

import json
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from deploy.local.service import HOST
from schemas.errors import SetupError
from tests.servers.launching import MODELS, ModelServerProcess

_FILLING_SECONDS = 300


class _Store(ModelServerProcess):
    """A store, and how one fills it with its own client, in its own environment."""

    apis = ()
    # What runs in its environment, below `models`.
    filler: str

    def fill(self, *arguments: str, **variables: str) -> Any:
        """Run the filler against the running server; what it prints, read as JSON."""
        environment = {**self.environment(), **variables}
        ended = subprocess.run(
            [
                *("env", *(f"{name}={value}" for name, value in environment.items())),
                *(str(self.binaries / "python"), str(MODELS / self.filler), self.url, *arguments),
            ],
            capture_output=True,
            text=True,
            timeout=_FILLING_SECONDS,
            check=False,
            cwd=self.directory,
        )
        if ended.returncode != 0:
            raise SetupError(f"{self.name} cannot be filled:\n{ended.stderr}")
        return json.loads(ended.stdout.splitlines()[-1])


class Moto(_Store):
    """An S3-compatible store that checks signatures and rights, once the filler has asked it to."""

    name = "moto"
    requirements = "moto"
    distribution = "moto"
    filler = "s3_objects.py"

    def environment(self) -> Mapping[str, str]:
        return {"INITIAL_NO_AUTH_ACTION_COUNT": "1000000"}

    def program(self, ports: Sequence[int]) -> list[str]:
        return [str(self.binaries / "moto_server"), "-H", HOST, "-p", str(ports[0])]

    def ready_urls(self) -> Sequence[str]:
        return [f"{self.url}/moto-api/data.json"]


class Mlflow(_Store):
    """A tracking server that hands out the files of its models."""

    name = "MLflow"
    requirements = "mlflow"
    distribution = "mlflow"
    filler = "mlflow_models.py"
    start_seconds = 100.0
    stop_seconds = 2.0

    def environment(self) -> Mapping[str, str]:
        return {
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "true",
            # Eight processes that would have no work.
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            # It imports so much that it takes half a minute wherever nothing is compiled beforehand.
            "PYTHONDONTWRITEBYTECODE": "",
        }

    def program(self, ports: Sequence[int]) -> list[str]:
        return [
            *(str(self.binaries / "mlflow"), "server", "--host", HOST, "--port", str(ports[0])),
            *("--backend-store-uri", f"sqlite:///{self.directory}/mlflow.db", "--workers", "1"),
            *("--artifacts-destination", str(self.directory / "artifacts")),
        ]

    def ready_urls(self) -> Sequence[str]:
        return [f"{self.url}/health"]


STORES: Sequence[type[ModelServerProcess]] = (Moto, Mlflow)
