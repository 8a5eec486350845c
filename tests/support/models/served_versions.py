"""Records, versions and backends for tests that serve without Kafka or the registry."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from registry.snapshot import RegisteredModel, RegisteredVersion
from schemas.errors import BackendTimeoutError, BackendUnavailableError
from schemas.events import JsonObject
from schemas.models import BUCKETS, BucketRange, ModelSpec, Route, Status
from streams.serving.route_table import InferenceDispatcher, ServedModel, ServedVersion
from streams.serving.served_version import served_version as build
from workers.calls.observers import CallTracer, Gate


@dataclass
class FakeRecord:
    """What the pipeline reads of a Kafka record."""

    value: bytes | None
    offset: int = 0
    timestamp: int = field(default_factory=lambda: int(time.time() * 1000))
    key: bytes | None = b"u"
    headers: Sequence[tuple[str, bytes]] = ()


def record_of(value: bytes | None, **fields: Any) -> FakeRecord:
    return FakeRecord(value, **fields)


class RecordingBackend:
    """Predicts by a function of the input and records each call. A call waits while its gate is closed.

    tests/contract/test_backend_port.py holds it to the real backends.
    """

    takes_one = False

    def __init__(self, predict: Callable[[JsonObject], Any] = lambda value: [value]) -> None:
        self._predict = predict
        self.calls: list[list[JsonObject]] = []
        self.timeouts_seconds: list[float] = []
        self.called = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()
        self.closed = False

    async def infer(self, inputs: Sequence[JsonObject], *, timeout_seconds: float) -> list[Any]:
        assert timeout_seconds > 0
        if self.closed:
            raise BackendUnavailableError("the model was unloaded")
        self.calls.append(list(inputs))
        self.timeouts_seconds.append(timeout_seconds)
        self.called.set()
        try:
            async with asyncio.timeout(timeout_seconds):
                await self.gate.wait()
        except TimeoutError:
            raise BackendTimeoutError(f"no prediction within {timeout_seconds:g} s") from None
        return [self._predict(value) for value in inputs]

    async def warm(self) -> None:
        """Nothing to warm."""

    async def close(self) -> None:
        self.closed = True


async def outcomes_of(
    dispatcher: InferenceDispatcher, inputs: Sequence[JsonObject], **options: Any
) -> list[Any]:
    """The outcome of each input, in order, when all have one."""
    outcomes: list[Any] = [None] * len(inputs)
    async for start, part in dispatcher.infer(inputs, **options):
        outcomes[start : start + len(part)] = part
    return outcomes


@dataclass
class RecordingMeter:
    """Records the calls it gets."""

    batches: list[int] = field(default_factory=list)
    opened: int = 0

    def called(self, batch_size: int, seconds: float) -> None:
        assert seconds >= 0
        self.batches.append(batch_size)

    def breaker_opened(self) -> None:
        self.opened += 1


def spec_of(version: str, input_schema: JsonObject | None = None, **fields: Any) -> ModelSpec:
    """A version as it could be registered; its artifact is never loaded."""
    return ModelSpec.model_validate(
        {
            "version": version,
            "framework": "onnx",
            "artifact_uri": "file:///nowhere",
            "artifact_sha256": "0" * 64,
            "input_schema": {"type": "object"} if input_schema is None else input_schema,
            "output_schema": {},
            **fields,
        }
    )


def served_version(
    model_name: str,
    version: str,
    backend: RecordingBackend,
    input_schema: JsonObject | None = None,
    *,
    tracer: CallTracer | None = None,
    gate: Gate | None = None,
    **fields: Any,
) -> ServedVersion:
    spec = spec_of(version, input_schema, **fields)
    return build(model_name, spec, backend, RecordingMeter(), tracer=tracer, gate=gate)


def served_model(
    model_name: str,
    revision: int,
    *versions: ServedVersion,
    active: bool = True,
    production: ServedVersion | None = None,
) -> ServedModel:
    """A model whose versions share its buckets evenly; without traffic when it is not active."""
    width = BUCKETS // len(versions)
    starts = [width * at for at in range(len(versions))] + [BUCKETS]
    ranges = tuple(
        BucketRange(start=starts[at], end=starts[at + 1], version=version.spec.version)
        for at, version in enumerate(versions)
    )
    registered = RegisteredModel(
        model_name,
        revision,
        Route(salt=model_name, ranges=ranges if active else ()),
        versions={
            version.spec.version: RegisteredVersion(
                version.spec, Status.PRODUCTION if version is production else Status.CANARY
            )
            for version in versions
        },
    )
    return ServedModel.of(registered, {version.spec.version: version for version in versions})
