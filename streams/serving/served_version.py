"""Building the versions of a serving table: compiled schemas, and the backend behind its dispatcher."""

import math
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace

from schemas.errors import BackendUnavailableError
from schemas.events import JsonObject
from schemas.models import Framework, ModelSpec
from streams.serving.route_table import ServedVersion, cache_prefix_of
from workers.backends.port import Backend
from workers.calls.batching import Settled
from workers.calls.dispatch import Dispatcher
from workers.calls.observers import CallTracer, Gate, Meter

# An ONNX session runs one batch at a time; the second call has the next batch ready when the first ends.
ONNX_CALLS = 2
ONNX_BATCH = 2048
SERVER_BATCH = 256


def served_version(
    model_name: str,
    spec: ModelSpec,
    backend: Backend,
    meter: Meter,
    *,
    tracer: CallTracer | None = None,
    gate: Gate | None = None,
) -> ServedVersion:
    """A version whose backend is loaded and warm; raises ArtifactError when a schema is not a JSON Schema."""
    return ServedVersion.of(
        model_name, spec, _dispatcher(model_name, spec, backend, meter, tracer=tracer, gate=gate)
    )


def unloaded_version(model_name: str, spec: ModelSpec, reason: str) -> ServedVersion:
    """A version that is not loaded, for a model without an older route: its calls fail at once, with the reason."""
    # The schemas may be the reason why the version cannot be loaded.
    without_schemas = spec.model_copy(update={"input_schema": {}, "output_schema": {}})
    dispatcher = _UnloadedDispatcher(f"{spec.version} {reason}")
    version = ServedVersion.of(model_name, without_schemas, dispatcher, is_loaded=False)
    # What the version predicted while it was loaded is still in the cache.
    return replace(version, cache_prefix=cache_prefix_of(model_name, spec))


def _dispatcher(
    model_name: str,
    spec: ModelSpec,
    backend: Backend,
    meter: Meter,
    *,
    tracer: CallTracer | None = None,
    gate: Gate | None = None,
) -> Dispatcher:
    return Dispatcher(
        backend,
        name=f"{model_name} {spec.version}",
        max_batch=1 if backend.takes_one else max_batch(spec),
        max_calls=ONNX_CALLS if spec.framework is Framework.ONNX else spec.server.max_calls,
        timeout_seconds=spec.timeout_ms / 1000,
        meter=meter,
        tracer=tracer,
        gate=gate,
    )


def max_batch(spec: ModelSpec) -> int:
    """The number of examples that one call of a version may have, unless its backend takes one at a time."""
    return spec.max_batch or (ONNX_BATCH if spec.framework is Framework.ONNX else SERVER_BATCH)


class _UnloadedDispatcher:
    """Fails every input with the reason, without a call: there is no server that a circuit breaker could spare."""

    takes_one = False

    def __init__(self, reason: str) -> None:
        self._reason = reason

    async def infer(
        self,
        inputs: Sequence[JsonObject],
        *,
        digests: Sequence[bytes] = (),  # noqa: ARG002  # the protocol's signature
        sizes_bytes: Sequence[int] = (),  # noqa: ARG002
        deadline_loop_seconds: float = math.inf,  # noqa: ARG002
    ) -> AsyncGenerator[Settled, None]:
        yield 0, [BackendUnavailableError(self._reason)] * len(inputs)

    def least_wait_seconds(self) -> float:
        """Nothing waits."""
        return 0.0

    async def close(self) -> None:
        """There is nothing to close."""
