"""From a registered version to a backend that can predict."""

from pathlib import Path

import platformdirs

from schemas.errors import ArtifactError
from schemas.models import Framework, ModelSpec
from streams.settings import Settings
from workers.artifacts import fetch
from workers.backend import Backend
from workers.onnx import OnnxBackend
from workers.open_inference import OpenInferenceBackend


class BackendLoader:
    """Loads by a version's framework, and nothing else: a file decides nothing about itself."""

    def __init__(self, settings: Settings) -> None:
        self._threads = settings.onnx_threads
        self._hosts = tuple(host.strip() for host in settings.backend_hosts.split(",") if host.strip())
        self._artifact_dir = (
            Path(settings.artifact_dir)
            if settings.artifact_dir
            else platformdirs.user_cache_path("headrace") / "artifacts"
        )

    async def __call__(self, model_name: str, spec: ModelSpec) -> Backend:
        """Raises ArtifactError, or UnavailableError when a server does not answer."""
        if spec.framework is Framework.ONNX:
            assert spec.artifact_uri is not None
            assert spec.artifact_sha256 is not None
            path = await fetch(spec.artifact_uri, spec.artifact_sha256, self._artifact_dir)
            return await OnnxBackend.load(path, threads=self._threads)
        if spec.framework is Framework.OPEN_INFERENCE:
            assert spec.endpoint is not None
            return OpenInferenceBackend(spec.endpoint, spec.input_schema, allowed_hosts=self._hosts)
        raise ArtifactError(f"{model_name} {spec.version}: framework {spec.framework} is not served yet")
