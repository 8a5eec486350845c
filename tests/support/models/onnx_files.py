"""Small ONNX models for tests, built with the `onnx` package."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT, INT64, STRING, BOOL = (
    TensorProto.FLOAT,
    TensorProto.INT64,
    TensorProto.STRING,
    TensorProto.BOOL,
)


def value(name: str, element: int, shape: Sequence[int | str | None] | None) -> Any:
    """An input or output; a size is a number, or a name or None where it is open."""
    return helper.make_tensor_value_info(name, element, shape)


def constant(name: str, content: Any) -> Any:
    return numpy_helper.from_array(np.asarray(content), name)


def save_model(
    path: Path,
    nodes: Sequence[Any],
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    constants: Sequence[Any] = (),
) -> Path:
    """Write a model of these nodes; nothing is checked, so that it may be wrong."""
    graph = helper.make_graph(nodes, "graph", inputs, outputs, initializer=list(constants))
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


def save_classifier(path: Path, classes: Sequence[int] | Sequence[str], labels: int | str = "N") -> Path:
    """`x` FLOAT [N, classes] → `label`, and `probabilities` = x as scikit-learn's converter writes them by default.

    `labels` is the declared shape of `label`, which LightGBM's converter writes as 1.
    """
    of_text = isinstance(classes[0], str)
    classlabels: dict[str, Any] = {"classlabels_strings" if of_text else "classlabels_int64s": list(classes)}
    kind = helper.make_map_type_proto(STRING if of_text else INT64, helper.make_tensor_type_proto(FLOAT, []))
    return save_model(
        path,
        [
            helper.make_node("ArgMax", ["x"], ["label"], axis=1, keepdims=0),
            helper.make_node("ZipMap", ["x"], ["probabilities"], domain="ai.onnx.ml", **classlabels),
        ],
        [value("x", FLOAT, ["N", len(classes)])],
        [
            value("label", INT64, [labels]),
            helper.make_value_info("probabilities", helper.make_sequence_type_proto(kind)),
        ],
    )


def _counting() -> Any:
    """The body of a loop that counts."""
    return helper.make_graph(
        [
            helper.make_node("Identity", ["condition"], ["goes_on"]),
            helper.make_node("Add", ["count", "one"], ["counted"]),
        ],
        "body",
        [value("round", INT64, []), value("condition", BOOL, []), value("count", INT64, [])],
        [value("goes_on", BOOL, []), value("counted", INT64, [])],
        initializer=[constant("one", np.int64(1))],
    )


def save_doubler(path: Path, *, rounds_of_example: int = 0) -> Path:
    """`x` INT64 [N] → `y` = 2x. Above a million it also counts to x, which takes as long as one wants.

    It counts `rounds_of_example` further for each example, some microseconds each.
    """
    return save_model(
        path,
        [
            helper.make_node("ReduceMax", ["x"], ["largest"], keepdims=0),
            helper.make_node("Sub", ["largest", "million"], ["excess"]),
            helper.make_node("Max", ["excess", "zero"], ["rounds_of_largest"]),
            helper.make_node("Size", ["x"], ["examples"]),
            helper.make_node("Mul", ["examples", "rounds_of_example"], ["rounds_of_all"]),
            helper.make_node("Add", ["rounds_of_largest", "rounds_of_all"], ["rounds"]),
            helper.make_node("Loop", ["rounds", "", "zero"], ["counted"], body=_counting()),
            helper.make_node("Mul", ["counted", "zero"], ["nothing"]),
            helper.make_node("Mul", ["x", "two"], ["double"]),
            helper.make_node("Add", ["double", "nothing"], ["y"]),
        ],
        [value("x", INT64, ["N"])],
        [value("y", INT64, ["N"])],
        [
            constant("zero", np.int64(0)),
            constant("two", np.int64(2)),
            constant("rounds_of_example", np.int64(rounds_of_example)),
            constant("million", np.int64(1_000_000)),
        ],
    )


FLOATS_OF_EXAMPLE = 500_000


def save_large_model(path: Path) -> Path:
    """`x` FLOAT [N, 1] → `y` = x + 1, by way of tensors with half a million numbers, 2 MB, for each example."""
    return save_model(
        path,
        [
            helper.make_node("Expand", ["x", "shape"], ["many"]),
            helper.make_node("Add", ["many", "one"], ["sums"]),
            helper.make_node("ReduceMax", ["sums"], ["y"], axes=[1], keepdims=0),
        ],
        [value("x", FLOAT, ["N", 1])],
        [value("y", FLOAT, ["N"])],
        [constant("shape", np.array([1, FLOATS_OF_EXAMPLE], np.int64)), constant("one", np.float32(1))],
    )


def save_endless(path: Path) -> Path:
    """`x` INT64 [N] → `y` INT64 [N], by a loop that does not end."""
    return save_model(
        path,
        [
            helper.make_node("Loop", ["", "yes", "zero"], ["counted"], body=_counting()),
            helper.make_node("Add", ["x", "counted"], ["y"]),
        ],
        [value("x", INT64, ["N"])],
        [value("y", INT64, ["N"])],
        [constant("zero", np.int64(0)), constant("yes", True)],
    )
