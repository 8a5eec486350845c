"""Import a model version from MLflow: fetch it, and derive what is registered."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from schemas.errors import ArtifactError
from schemas.events import JsonObject
from streams.config.settings import Settings
from streams.models.egress import artifact_store
from workers.artifacts.mlflow import MlflowVersion
from workers.artifacts.mlflow_signature import schemas_of
from workers.artifacts.store import Progress
from workers.backends.description import ModelDescription
from workers.backends.onnx import OnnxBackend


@dataclass(frozen=True, slots=True)
class Imported:
    """The fields of `ModelSpec` that follow from a version, and notes for its operator."""

    model: JsonObject
    notes: tuple[str, ...]


async def import_version(
    version: MlflowVersion, settings: Settings, on_progress: Progress | None = None
) -> Imported:
    """Fetch and load the file of a model version, and return what to register.

    Raises ArtifactError when the version has no ONNX file that a worker would serve, or MLflow refuses to send
    it; UnavailableError when MLflow or the store of the file does not answer; SetupError when the settings are
    wrong.
    """
    entry, mlmodel = await version.details(), await version.mlmodel()
    run, notes = await _run_of(version, entry.get("run_id"))
    async with artifact_store(settings).received(version.uri, on_progress) as artifact:
        try:
            described = await _describe(await OnnxBackend.load(artifact.path, threads=settings.onnx_threads))
        except ArtifactError as error:
            raise ArtifactError(f"{version.uri}: {error}") from None
    schemas = schemas_of(described, mlmodel)
    model = {
        "version": version.number,
        "framework": "onnx",
        "artifact_uri": version.uri,
        "artifact_sha256": artifact.sha256,
        "input_schema": schemas.input_schema,
        "output_schema": schemas.output_schema,
        "metrics": metrics_of(run),
        "created_by": user_of(run) or str(entry.get("user_id") or ""),
    }
    return Imported(model, (*schemas.notes, *notes))


async def _run_of(version: MlflowVersion, run_id: Any) -> tuple[JsonObject, tuple[str, ...]]:
    """The run that made a version, or {} and a note on why it is missing; a model works without it."""
    if not isinstance(run_id, str) or not run_id:
        return {}, ("MLflow knows no run that made this version; metrics are left empty",)
    try:
        return await version.run(run_id), ()
    except ArtifactError as error:
        return {}, (f"{error}; metrics are left empty",)


async def _describe(backend: OnnxBackend) -> ModelDescription:
    try:
        await backend.warm()
        return await backend.describe()
    finally:
        await backend.close()


def metrics_of(run: Mapping[str, Any]) -> JsonObject:
    """The last value of each metric of a run, without NaN and Infinity, which JSON cannot hold."""
    logged = _field(run, "data").get("metrics")
    return {
        metric["key"]: metric["value"]
        for metric in (logged if isinstance(logged, list) else [])
        if isinstance(metric.get("value"), int | float) and math.isfinite(metric["value"])
    }


def user_of(run: Mapping[str, Any]) -> str:
    """The user that made a run, or ""."""
    tags = _field(run, "data").get("tags")
    named = {tag.get("key"): tag.get("value") for tag in (tags if isinstance(tags, list) else [])}
    return str(named.get("mlflow.user") or _field(run, "info").get("user_id") or "")


def _field(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = document.get(name)
    return value if isinstance(value, dict) else {}
