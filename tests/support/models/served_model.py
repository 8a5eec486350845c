"""A model that tests can predict themselves, registered as an operator would do it."""

import hashlib
import uuid
from pathlib import Path
from typing import Any

import numpy as np
from onnx import helper

from registry.store import RegistryStore
from schemas.events import JsonObject
from schemas.models import PromotionEvent
from tests.support.models.onnx_files import INT64, constant, save_model, value
from tests.support.promotions.events import event

LARGEST_X = 1_000_000
LARGEST_OUTPUT = 2_500_000
"""An input above a third of it has predictions that break the output schema."""

INPUT_SCHEMA: JsonObject = {
    "type": "object",
    "required": ["x"],
    "properties": {
        "x": {"type": "integer", "minimum": 0, "maximum": LARGEST_X},
        # Its name needs both escapes of a JSON pointer.
        "a/b~c": {"type": "array", "items": {"type": "integer"}},
    },
}
OUTPUT_SCHEMA: JsonObject = {
    "type": "array",
    "minItems": 3,
    "maxItems": 3,
    "items": {"type": "integer", "maximum": LARGEST_OUTPUT},
}
_SHIFTS = {"v1": 0, "v2": 7}


def predictions_of(version: str, x: int) -> list[int]:
    """What a version answers to `{"x": x}`."""
    return [factor * x + _SHIFTS[version] for factor in (1, 2, 3)]


def spec_of(folder: Path, version: str, **fields: Any) -> JsonObject:
    """`model` of the event that registers a version, its artifact written into `folder`."""
    path = save_model(
        folder / f"{version}.onnx",
        [
            helper.make_node("Unsqueeze", ["x", "last"], ["column"]),
            helper.make_node("Mul", ["column", "factors"], ["products"]),
            helper.make_node("Add", ["products", "shift"], ["y"]),
        ],
        [value("x", INT64, ["N"])],
        [value("y", INT64, ["N", 3])],
        [
            constant("last", np.array([1])),
            constant("factors", np.array([1, 2, 3])),
            constant("shift", np.array([_SHIFTS[version]])),
        ],
    )
    return {
        "version": version,
        "framework": "onnx",
        "artifact_uri": path.as_uri(),
        "artifact_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "input_schema": INPUT_SCHEMA,
        "output_schema": OUTPUT_SCHEMA,
        **fields,
    }


async def apply(dsn: str, *events: PromotionEvent) -> None:
    """Apply events that must all be accepted."""
    store = await RegistryStore.connect(dsn)
    try:
        for one in events:
            result = await store.apply(one)
            assert result.status == "applied", result.error
    finally:
        await store.close()


async def serve_model(dsn: str, folder: Path, *, canary_percent: float | None = None, **fields: Any) -> str:
    """Register and promote v1, and give v2 a canary when asked; returns the model's name.

    The name is new each time, because the prediction caches of tests may be one Redis.
    """
    name = f"m-{uuid.uuid4().hex[:12]}"
    events = [
        event("register", name, model=spec_of(folder, "v1", **fields)),
        event("promote", name, version="v1"),
    ]
    if canary_percent is not None:
        events += [
            event("register", name, model=spec_of(folder, "v2", **fields)),
            event("canary", name, version="v2", weight=canary_percent),
        ]
    await apply(dsn, *events)
    return name
