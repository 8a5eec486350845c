"""Loads ONNX models for one test, and closes them after it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

from schemas.mapping import Mapping
from workers.backends.onnx import OnnxBackend


class Load(Protocol):
    """Loads a model with the outputs of a mapping."""

    async def __call__(self, path: Path, *, outputs: dict[str, str] | None = None) -> OnnxBackend: ...


@asynccontextmanager
async def onnx_loader() -> AsyncIterator[Load]:
    loaded: list[OnnxBackend] = []

    async def load(path: Path, *, outputs: dict[str, str] | None = None) -> OnnxBackend:
        mapping = None if outputs is None else Mapping(outputs=outputs)
        loaded.append(await OnnxBackend.load(path, threads=1, mapping=mapping))
        return loaded[-1]

    try:
        yield load
    finally:
        for backend in loaded:
            await backend.close()
