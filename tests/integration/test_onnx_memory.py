"""workers/backends/onnx.py: the memory of a run is limited, and given back."""

import asyncio
from pathlib import Path

import numpy as np
import psutil
import pytest
from onnx import helper

from schemas.errors import BackendTooLargeError
from schemas.events import JsonObject
from tests.support.deadline import wait_until
from tests.support.models.onnx_files import FLOAT, constant, save_large_model, save_model, value
from tests.support.models.served_versions import RecordingMeter, outcomes_of
from workers.backends.onnx import MAX_OUTPUT_BYTES, OnnxBackend
from workers.calls.dispatch import Dispatcher

MIB = 1024 * 1024


def batch(count: int) -> list[JsonObject]:
    return [{"x": [float(number)]} for number in range(count)]


async def test_a_run_beyond_the_memory_fails_and_no_other_model_is_affected(tmp_path: Path) -> None:
    """Each has an arena of its own; smaller runs succeed, before and after."""
    path = save_large_model(tmp_path / "m.onnx")
    narrow = await OnnxBackend.load(path, threads=1, memory_bytes=64 * MIB)
    wide = await OnnxBackend.load(path, threads=1, memory_bytes=512 * MIB)
    for _ in range(2):
        assert await narrow.infer(batch(4), timeout_seconds=60) == [1.0, 2.0, 3.0, 4.0]
        with pytest.raises(BackendTooLargeError, match="HEADRACE_ONNX_MEMORY_BYTES"):
            await narrow.infer(batch(64), timeout_seconds=60)
    assert len(await wide.infer(batch(64), timeout_seconds=60)) == 64
    await narrow.close()
    await wide.close()


async def test_memory_is_given_back_when_no_call_follows(tmp_path: Path) -> None:
    """A run of 64 examples needs over 128 MiB. A second burst gives it back, too."""
    backend = await OnnxBackend.load(save_large_model(tmp_path / "m.onnx"), threads=1)
    await backend.warm()
    before = psutil.Process().memory_info().rss

    async def is_given_back() -> bool:
        return psutil.Process().memory_info().rss - before < 64 * MIB

    for _ in range(2):
        await backend.infer(batch(64), timeout_seconds=60)
        assert not await is_given_back()
        await wait_until(is_given_back, "the memory of the run is given back")
    await backend.close()


async def test_a_dispatcher_finds_the_calls_that_fit(tmp_path: Path) -> None:
    """Nothing fails."""
    backend = await OnnxBackend.load(save_large_model(tmp_path / "m.onnx"), threads=1, memory_bytes=64 * MIB)
    meter = RecordingMeter()
    dispatcher = Dispatcher(
        backend, name="m v1", max_batch=2048, max_calls=2, timeout_seconds=60, meter=meter
    )
    outcomes = await asyncio.gather(*(outcomes_of(dispatcher, batch(100)) for _ in range(4)))
    assert outcomes == [[number + 1.0 for number in range(100)]] * 4
    assert 4 <= max(meter.batches) <= 32
    await dispatcher.close()


async def test_outputs_beyond_the_limit(tmp_path: Path) -> None:
    """Eight examples have 2 MiB of outputs each, nine are too many."""
    floats = MAX_OUTPUT_BYTES // 8 // 4
    path = save_model(
        tmp_path / "m.onnx",
        [helper.make_node("Expand", ["x", "shape"], ["y"])],
        [value("x", FLOAT, ["N", 1])],
        [value("y", FLOAT, ["N", floats])],
        [constant("shape", np.array([1, floats], np.int64))],
    )
    backend = await OnnxBackend.load(path, threads=1)
    assert len(await backend.infer(batch(8), timeout_seconds=60)) == 8
    with pytest.raises(BackendTooLargeError, match="the outputs have"):
        await backend.infer(batch(9), timeout_seconds=60)
    await backend.close()
