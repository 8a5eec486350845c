"""Export of a recommender to ONNX: input `user_idx` [batch], output `items` [batch, 10]."""

from pathlib import Path

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper

from deploy.demo.recommenders import LIST_LENGTH, Recommender

# Old enough for every supported ONNX Runtime.
_OPSET = 17
_IR_VERSION = 8


def write_onnx(recommender: Recommender, path: Path) -> None:
    """Write the model to `path`; equal recommenders give equal bytes."""
    constants = {
        "user_factors": recommender.user_factors,
        "item_factors": np.ascontiguousarray(recommender.item_factors.T),
        "seen": recommender.seen,
        "never": np.array(np.finfo(np.float32).min),
        "k": np.array([LIST_LENGTH], np.int64),
    }
    graph = helper.make_graph(
        nodes=[
            helper.make_node("Gather", ["user_factors", "user_idx"], ["users"]),
            helper.make_node("MatMul", ["users", "item_factors"], ["scores"]),
            helper.make_node("Gather", ["seen", "user_idx"], ["seen_by_users"]),
            helper.make_node("Where", ["seen_by_users", "never", "scores"], ["unseen_scores"]),
            helper.make_node("TopK", ["unseen_scores", "k"], ["top_scores", "items"]),
        ],
        name="recommender",
        inputs=[helper.make_tensor_value_info("user_idx", TensorProto.INT64, ["batch"])],
        outputs=[helper.make_tensor_value_info("items", TensorProto.INT64, ["batch", LIST_LENGTH])],
        initializer=[numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)
    checker.check_model(model)
    path.write_bytes(model.SerializeToString(deterministic=True))
