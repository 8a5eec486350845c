"""ONNX models whose inputs have no open batch dimension, no batch dimension at all, or may be missing."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from schemas.errors import BackendFailedError
from schemas.events import JsonObject
from tests.support.deadline import DEADLINE_SECONDS
from tests.support.models.loaded_onnx import Load, onnx_loader
from tests.support.models.onnx_files import FLOAT, INT64, constant, save_model, value


@pytest.fixture
async def load() -> AsyncIterator[Load]:
    async with onnx_loader() as load_one:
        yield load_one


async def test_a_fixed_batch_of_one_is_served(load: Load, tmp_path: Path) -> None:
    """As vision models are exported: one example a run, in values without that dimension."""
    path = save_model(
        tmp_path / "m.onnx",
        [helper.make_node("ReduceMean", ["image"], ["mean"], axes=[2, 3], keepdims=0)],
        [value("image", FLOAT, [1, 2, "height", "width"])],
        [value("mean", FLOAT, [1, 2])],
    )
    backend = await load(path)
    await backend.warm()
    assert backend.takes_one
    described = await backend.describe()
    assert [tensor.shape for tensor in (*described.inputs, *described.outputs)] == [(2, None, None), (2,)]
    images: list[JsonObject] = [{"image": [[[1, 3]], [[2, 2]]]}, {"image": [[[5], [7]], [[0], [1]]]}]
    assert await backend.infer(images, timeout_seconds=DEADLINE_SECONDS) == [[2.0, 2.0], [6.0, 0.5]]


async def test_a_model_with_a_state_and_a_rate(load: Load, tmp_path: Path) -> None:
    """As audio models are exported: a state whose batch is its second dimension, a scalar, and outputs of both kinds."""
    path = save_model(
        tmp_path / "m.onnx",
        [
            helper.make_node("Cast", ["rate"], ["factor"], to=FLOAT),
            helper.make_node("Mul", ["x", "factor"], ["y"]),
            helper.make_node("Neg", ["state"], ["next"]),
            helper.make_node("ReduceSum", ["y"], ["sum"], keepdims=0),
            helper.make_node("NonZero", ["x"], ["found"]),
        ],
        [value("x", FLOAT, [1, "samples"]), value("state", FLOAT, [2, 1, 1]), value("rate", INT64, [])],
        [
            value("y", FLOAT, [1, "samples"]),
            value("next", FLOAT, [2, 1, 1]),
            value("sum", FLOAT, []),
            value("found", INT64, [2, "found"]),
        ],
    )
    backend = await load(path)
    await backend.warm()
    schema = (await backend.describe()).output_schema()["properties"]
    assert schema["sum"] == {"type": "number"}
    examples: list[JsonObject] = [
        {"x": [1, 0], "state": [[[1]], [[2]]], "rate": 2},
        {"x": [3], "state": [[[0]], [[0]]], "rate": 3},
    ]
    assert await backend.infer(examples, timeout_seconds=DEADLINE_SECONDS) == [
        {"y": [2.0, 0.0], "next": [[[-1.0]], [[-2.0]]], "sum": 2.0, "found": [[0], [0]]},
        {"y": [9.0], "next": [[[-0.0]], [[-0.0]]], "sum": 9.0, "found": [[0], [0]]},
    ]
    with pytest.raises(BackendFailedError, match=r"^rate is a list, and an integer is wanted$"):
        await backend.infer([examples[0] | {"rate": [2]}], timeout_seconds=DEADLINE_SECONDS)


async def test_scalars_alone(load: Load, tmp_path: Path) -> None:
    """A plain value in and out."""
    node = helper.make_node("Exp", ["x"], ["y"])
    backend = await load(
        save_model(tmp_path / "m.onnx", [node], [value("x", FLOAT, [])], [value("y", FLOAT, [])])
    )
    await backend.warm()
    assert await backend.infer([{"x": 0}, {"x": 0.0}], timeout_seconds=DEADLINE_SECONDS) == [1.0, 1.0]
    assert (await backend.describe()).output_schema() == {"type": "number"}


async def test_a_scalar_beside_a_batch(load: Load, tmp_path: Path) -> None:
    """Examples with equal scalars share a run; each gets the answer by its own."""
    path = save_model(
        tmp_path / "m.onnx",
        [helper.make_node("Mul", ["x", "factor"], ["y"])],
        [value("x", FLOAT, ["N"]), value("factor", FLOAT, [])],
        [value("y", FLOAT, ["N"])],
    )
    backend = await load(path)
    await backend.warm()
    assert not backend.takes_one
    examples: list[JsonObject] = [{"x": x, "factor": factor} for x in (1, 2) for factor in (1, 10)]
    assert await backend.infer(examples, timeout_seconds=DEADLINE_SECONDS) == [1.0, 10.0, 2.0, 20.0]


def _branch(node: Any, output: str) -> Any:
    return helper.make_graph([node], output, [], [value(output, FLOAT, None)])


async def test_an_optional_input_may_be_missing(load: Load, tmp_path: Path) -> None:
    """It is not required by the derived schema; a default of the model is not asked for at all."""
    path = save_model(
        tmp_path / "m.onnx",
        [
            helper.make_node("OptionalHasElement", ["bias"], ["has"]),
            helper.make_node(
                "If",
                ["has"],
                ["added"],
                then_branch=_branch(helper.make_node("OptionalGetElement", ["bias"], ["given"]), "given"),
                else_branch=_branch(helper.make_node("Identity", ["default"], ["none"]), "none"),
            ),
            helper.make_node("Add", ["x", "added"], ["sum"]),
            helper.make_node("Mul", ["sum", "default_factor"], ["y"]),
        ],
        [
            value("x", FLOAT, ["N"]),
            helper.make_value_info(
                "bias", helper.make_optional_type_proto(helper.make_tensor_type_proto(FLOAT, ["N"]))
            ),
            value("default_factor", FLOAT, []),
        ],
        [value("y", FLOAT, ["N"])],
        [constant("default", np.float32(0)), constant("default_factor", np.float32(2))],
    )
    model = onnx.load(path)
    model.opset_import[0].version = 18
    onnx.save(model, path)
    backend = await load(path)
    await backend.warm()
    schema = (await backend.describe()).input_schema()
    assert (schema["required"], list(schema["properties"])) == (["x"], ["x", "bias"])
    examples: list[JsonObject] = [{"x": 1}, {"x": 1, "bias": 10}, {"x": 2}]
    assert await backend.infer(examples, timeout_seconds=DEADLINE_SECONDS) == [2.0, 22.0, 4.0]
