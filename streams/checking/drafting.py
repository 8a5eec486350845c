"""Draft the registration of a model file: its digest, the schemas that follow from it, and an example."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas.errors import AnswerError, ArtifactError
from schemas.events import JsonObject
from schemas.json_schema import compile_schema
from schemas.wire import canonical
from streams.checking.samples import sample_of
from streams.config.settings import Settings
from streams.models.backend_loader import warm
from streams.models.egress import artifact_store
from workers.artifacts.store import Progress
from workers.backends.onnx import OnnxBackend

# A larger example would fill the event and hide the rest of the file.
MAX_EXAMPLE_BYTES = 16 * 1024
# One call for one example, without the limit that the version will have.
_EXAMPLE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Draft:
    """Fields of `ModelSpec` that follow from a file, and notes for whoever registers it."""

    fields: JsonObject
    notes: tuple[str, ...]


async def draft_version(uri: str, settings: Settings, on_progress: Progress | None = None) -> Draft:
    """Fetch and load the ONNX file at `uri` as a worker would, and return what to register.

    Raises ArtifactError when the file cannot be read, or a worker would not serve it; UnavailableError when its server
    does not answer; SetupError when the settings are wrong.
    """
    async with artifact_store(settings).received(uri, on_progress) as artifact:
        try:
            schemas, example, notes = await _declared(artifact.path, settings)
        except ArtifactError as error:
            raise ArtifactError(f"{uri}: {error}") from None
    file = {"framework": "onnx", "artifact_uri": uri, "artifact_sha256": artifact.sha256}
    return Draft(file | schemas | ({} if example is None else {"example": example}), notes)


async def _declared(path: Path, settings: Settings) -> tuple[JsonObject, JsonObject | None, tuple[str, ...]]:
    """The schemas of a model, an example, and notes."""
    backend = await OnnxBackend.load(
        path, threads=settings.onnx_threads, memory_bytes=settings.onnx_memory_bytes
    )
    try:
        await warm(backend, timeout_seconds=settings.load_timeout_seconds)
        described = await backend.describe()
        schemas = {"input_schema": described.input_schema(), "output_schema": described.output_schema()}
        return schemas, *await _example(backend, schemas)
    finally:
        await backend.close()


async def _example(backend: OnnxBackend, schemas: JsonObject) -> tuple[JsonObject | None, tuple[str, ...]]:
    """An input that fits the model, with its predictions; or None, and the reason."""
    made = sample_of(schemas["input_schema"])
    if not isinstance(made, dict) or not made:
        return None, ("no example can be made from the model's inputs; give the version one",)
    if len(canonical(made)) > MAX_EXAMPLE_BYTES:
        return None, (f"an example would have more than {MAX_EXAMPLE_BYTES} bytes, and is left out",)
    try:
        (predictions,) = await backend.infer([made], timeout_seconds=_EXAMPLE_SECONDS)
    except AnswerError as error:
        predictions = error
    if isinstance(predictions, AnswerError):
        return None, (f"the model does not predict a made-up example: {predictions.message}; give it one",)
    if not _fits(schemas["output_schema"], predictions):
        return None, ("the predictions of a made-up example do not fit what the model declares; give it one",)
    return {"input": made, "predictions": predictions}, ()


def _fits(schema: JsonObject, value: Any) -> bool:
    return compile_schema(schema).is_valid(value)
