"""A small recommender of random numbers, as ONNX and as a reference to check answers by.

scores = (user_factors[user_idx] + context · context_weights) · item_factors; `items` are the ten best.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from .workload import CONTEXT, ITEMS, TOP, USERS, features

_RANK = 64
# float32 sums differ by the order of their terms, so that neighbours this close may change places.
_TIE = 1e-3


@dataclass(frozen=True, slots=True)
class Recommender:
    """Factors of shapes (users, 64), (context, 64) and (64, items)."""

    user_factors: NDArray[np.float32]
    context_weights: NDArray[np.float32]
    item_factors: NDArray[np.float32]

    @classmethod
    def random(cls, seed: int) -> "Recommender":
        numbers = np.random.default_rng(seed)
        shapes = ((USERS, _RANK), (CONTEXT, _RANK), (_RANK, ITEMS))
        return cls(*(numbers.standard_normal(shape, dtype=np.float32) for shape in shapes))

    def agrees(self, number: int, items: object) -> bool:
        """Whether `items` are the ten best of record `number`, best first, but for ties."""
        if not isinstance(items, list) or len(set(items)) != TOP:
            return False
        user_idx, context = features(number)
        user = self.user_factors[user_idx] + np.asarray(context, dtype=np.float32) @ self.context_weights
        scores = user @ self.item_factors
        best = np.sort(scores)[::-1][:TOP]
        return bool(np.allclose(scores[items], best, atol=_TIE))

    def save(self, path: Path) -> str:
        """Write the ONNX file; returns its SHA-256 in hex."""
        constants: dict[str, NDArray[Any]] = {
            "user_factors": self.user_factors,
            "context_weights": self.context_weights,
            "item_factors": self.item_factors,
            "top": np.array([TOP], dtype=np.int64),
        }
        graph = helper.make_graph(
            [
                helper.make_node("Gather", ["user_factors", "user_idx"], ["user"]),
                helper.make_node("MatMul", ["context", "context_weights"], ["shift"]),
                helper.make_node("Add", ["user", "shift"], ["shifted"]),
                helper.make_node("MatMul", ["shifted", "item_factors"], ["scores"]),
                helper.make_node("TopK", ["scores", "top"], ["best", "items"]),
            ],
            "recommender",
            [
                helper.make_tensor_value_info("user_idx", TensorProto.INT64, ["batch"]),
                helper.make_tensor_value_info("context", TensorProto.FLOAT, ["batch", CONTEXT]),
            ],
            [helper.make_tensor_value_info("items", TensorProto.INT64, ["batch", TOP])],
            [numpy_helper.from_array(value, name) for name, value in constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(model)
        path.write_bytes(model.SerializeToString())
        return hashlib.sha256(path.read_bytes()).hexdigest()
