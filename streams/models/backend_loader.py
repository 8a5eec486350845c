"""Load a registered version as a backend that predicts."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

from schemas.errors import LoadTimeoutError
from schemas.models import Framework, ModelSpec
from streams.config.settings import Settings
from streams.models.egress import artifact_store, backend_outbound
from workers.artifacts.store import Progress
from workers.backends.factory import remote_backend
from workers.backends.onnx import OnnxBackend
from workers.backends.port import Backend, DescribedBackend
from workers.backends.response_room import ResponseRoom


class BackendLoader:
    """Chooses the backend by the version's framework alone; the content of a model file decides nothing.

    `on_progress` receives the progress of fetching a model file. With `asks_source`, the file comes from its URI, also
    when a copy with its digest is stored here.
    """

    def __init__(
        self, settings: Settings, on_progress: Progress | None = None, *, asks_source: bool = False
    ) -> None:
        self._threads = settings.onnx_threads
        self._memory_bytes = settings.onnx_memory_bytes
        self._timeout_seconds = settings.load_timeout_seconds
        self._outbound = backend_outbound(settings)
        self._artifacts = artifact_store(settings)
        self._on_progress = on_progress
        self._asks_source = asks_source
        self._room = ResponseRoom()

    async def __call__(
        self,
        model_name: str,  # noqa: ARG002  # the signature of a loader
        spec: ModelSpec,
        begin: Callable[[], Awaitable[None]] | None = None,
    ) -> DescribedBackend:
        """Awaits `begin` when the model's file is here. Raises ArtifactError, or UnavailableError when a server does not answer."""
        if spec.framework is Framework.ONNX:
            assert spec.artifact_uri is not None
            assert spec.artifact_sha256 is not None
            async with self._artifacts.fetched(
                spec.artifact_uri,
                spec.artifact_sha256,
                self._on_progress,
                asks_source=self._asks_source,
            ) as path:
                if begin is not None:
                    await begin()
                async with _in_time(self._timeout_seconds, "loaded"):
                    return await OnnxBackend.load(
                        path, threads=self._threads, mapping=spec.mapping, memory_bytes=self._memory_bytes
                    )
        if begin is not None:
            await begin()
        return remote_backend(spec, self._outbound, self._room)


async def warm(backend: Backend, *, timeout_seconds: float) -> None:
    """Prepare a backend for its first call; raises as its `warm`, and LoadTimeoutError."""
    async with _in_time(timeout_seconds, "ready for its first call"):
        await backend.warm()


@asynccontextmanager
async def _in_time(timeout_seconds: float, what: str) -> AsyncGenerator[None, None]:
    try:
        async with asyncio.timeout(timeout_seconds):
            yield
    except TimeoutError:
        raise LoadTimeoutError(
            f"the model is not {what} within {timeout_seconds:g} s; if it does not run without end, for example in a "
            "loop, raise HEADRACE_LOAD_TIMEOUT_SECONDS"
        ) from None
