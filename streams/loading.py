"""From a registered version to a backend that can predict."""

from pathlib import Path

import platformdirs

from schemas.models import Framework, ModelSpec
from streams.settings import Settings
from workers.artifacts import fetch
from workers.backend import Backend
from workers.endpoints import Outbound
from workers.onnx import OnnxBackend
from workers.remote import remote_backend


class BackendLoader:
    """Loads by a version's framework, and nothing else: a file decides nothing about itself."""

    def __init__(self, settings: Settings) -> None:
        self._threads = settings.onnx_threads
        self._outbound = Outbound(
            hosts=listed(settings.backend_hosts),
            networks=listed(settings.backend_networks),
            tokens=settings.backend_tokens,
            ca_file=settings.backend_ssl_cafile,
        )
        self._artifact_dir = (
            Path(settings.artifact_dir)
            if settings.artifact_dir
            else platformdirs.user_cache_path("headrace") / "artifacts"
        )

    async def __call__(self, model_name: str, spec: ModelSpec) -> Backend:  # noqa: ARG002  # a loader's signature
        """Raises ArtifactError, or UnavailableError when a server does not answer."""
        if spec.framework is Framework.ONNX:
            assert spec.artifact_uri is not None
            assert spec.artifact_sha256 is not None
            path = await fetch(spec.artifact_uri, spec.artifact_sha256, self._artifact_dir)
            return await OnnxBackend.load(path, threads=self._threads, mapping=spec.mapping)
        return remote_backend(spec, self._outbound)


def listed(setting: str) -> tuple[str, ...]:
    """The entries of a setting that lists them with commas between."""
    return tuple(entry.strip() for entry in setting.split(",") if entry.strip())
