# mypy: ignore-errors
# It runs in an environment of its own, with libraries that are not in this one.
"""`python mlflow_models.py URL [S3_LOCATION]`: models as people log them, in the registry of a tracking server.

Prints the user and the registry's versions by what they are, as JSON. With a location, only one that is kept
there.
"""

import getpass
import json
import sys

import mlflow
import numpy as np
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema, TensorSpec
from onnx import TensorProto, helper, numpy_helper
from sklearn.linear_model import LogisticRegression

# So that none of them is found out by running the model in yet another process.
QUICK = {"pip_requirements": ["onnxruntime"]}
TENSORS = ModelSignature(
    Schema([TensorSpec(np.dtype("float32"), (-1, 3), "features")]),
    Schema([TensorSpec(np.dtype("float32"), (-1, 1), "score")]),
)
COLUMNS = ModelSignature(
    Schema([ColSpec("long", "age"), ColSpec("double", "income"), ColSpec("double", "ratio")]),
    Schema([ColSpec("float")]),
)


def weighted(size: int = 3):
    """`features` FLOAT [N, size] → `score` [N, 1]: the sum of 1, 2, 3 … times each."""
    features = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", size])
    score = helper.make_tensor_value_info("score", TensorProto.FLOAT, ["N", 1])
    weights = np.arange(1, size + 1, dtype=np.float32).reshape(size, 1)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["features", "weights"], ["score"])],
        "weighted",
        [features],
        [score],
        [numpy_helper.from_array(weights, "weights")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def log(name: str, model, **options) -> str:
    with mlflow.start_run():
        mlflow.log_metric("accuracy", 0.5, step=1)
        mlflow.log_metric("accuracy", 0.91, step=2)
        mlflow.log_metric("loss", float("nan"))
        info = mlflow.onnx.log_model(model, name="model", registered_model_name=name, **QUICK, **options)
    return f"mlflow:/{name}/{info.registered_model_version}"


def main(url: str, location: str | None = None) -> None:
    mlflow.set_tracking_uri(url)
    if location is not None:
        mlflow.set_experiment(experiment_id=mlflow.create_experiment("elsewhere", location))
        versions = {"elsewhere": log("elsewhere", weighted(), signature=TENSORS, save_as_external_data=False)}
    else:
        whole = {"save_as_external_data": False}
        versions = {
            "tensors": log("fraud", weighted(), signature=TENSORS, **whole),
            "columns": log("fraud", weighted(), signature=COLUMNS, **whole),
            "unsigned": log("fraud", weighted(), **whole),
            "in two files": log("fraud", weighted(1000), signature=None),
        }
        with mlflow.start_run():
            classifier = LogisticRegression().fit([[0, 1], [1, 0]], [0, 1])
            mlflow.sklearn.log_model(
                classifier,
                name="model",
                registered_model_name="pickled",
                serialization_format="cloudpickle",
                pip_requirements=["scikit-learn"],
            )
        versions["pickled"] = "mlflow:/pickled/1"
    sys.stdout.write(json.dumps({"user": getpass.getuser(), "versions": versions}) + "\n")


main(*sys.argv[1:])
