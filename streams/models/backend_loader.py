"""Load a registered version as a backend that predicts."""

from schemas.models import Framework, ModelSpec
from streams.config.settings import Settings
from streams.models.egress import artifact_store, backend_outbound
from workers.artifacts.store import Progress
from workers.backends.factory import remote_backend
from workers.backends.onnx import OnnxBackend
from workers.backends.port import DescribedBackend


class BackendLoader:
    """Chooses the backend by the version's framework alone; the content of a model file decides nothing.

    `on_progress` receives the progress of fetching a model file.
    """

    def __init__(self, settings: Settings, on_progress: Progress | None = None) -> None:
        self._threads = settings.onnx_threads
        self._memory_bytes = settings.onnx_memory_bytes
        self._outbound = backend_outbound(settings)
        self._artifacts = artifact_store(settings)
        self._on_progress = on_progress

    async def __call__(self, model_name: str, spec: ModelSpec) -> DescribedBackend:  # noqa: ARG002  # the signature of a loader
        """Raises ArtifactError, or UnavailableError when a server does not answer."""
        if spec.framework is Framework.ONNX:
            assert spec.artifact_uri is not None
            assert spec.artifact_sha256 is not None
            async with self._artifacts.fetched(
                spec.artifact_uri, spec.artifact_sha256, self._on_progress
            ) as path:
                return await OnnxBackend.load(
                    path, threads=self._threads, mapping=spec.mapping, memory_bytes=self._memory_bytes
                )
        return remote_backend(spec, self._outbound)
