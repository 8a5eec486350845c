"""workers/backends/description.py and what servers say of their models: the JSON Schemas that follow."""

from typing import Any

import numpy as np
import orjson
import pytest

from schemas.events import JsonObject
from schemas.mapping import Datatype
from workers.backends.description import DescribedTensor, ModelDescription, chosen
from workers.backends.open_inference_messages import read_description as read_metadata
from workers.backends.tensorflow_messages import read_description as read_signature
from workers.backends.tensors import TensorSpec

INT32 = {"type": "integer", "minimum": -(2**31), "maximum": 2**31 - 1}


def tensor(name: str, datatype: str, shape: tuple[int | None, ...] | None) -> DescribedTensor:
    return DescribedTensor(name, name, Datatype(datatype), shape)


def test_inputs_become_an_object_schema() -> None:
    """All inputs are required; fixed sizes are exact, open sizes are unbounded, integers have their bounds."""
    described = ModelDescription(
        [tensor("age", "INT32", ()), tensor("image", "FP32", (None, 2)), tensor("name", "BYTES", ())], []
    )
    pair = {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}
    assert described.input_schema() == {
        "type": "object",
        "required": ["age", "image", "name"],
        "properties": {"age": INT32, "image": {"type": "array", "items": pair}, "name": {"type": "string"}},
    }


@pytest.mark.parametrize(
    ("outputs", "schema"),
    [
        ([], {}),
        ([tensor("y", "FP32", ())], {"type": "number"}),
        ([tensor("y", "FP32", None)], {}),
        ([tensor("y", "INT8", ())], {"type": "integer"}),
        (
            [tensor("a", "BOOL", ()), tensor("b", "INT64", (None,))],
            {
                "type": "object",
                "required": ["a", "b"],
                "properties": {
                    "a": {"type": "boolean"},
                    "b": {"type": "array", "items": {"type": "integer"}},
                },
            },
        ),
    ],
)
def test_one_output_is_bare_and_several_are_an_object(
    outputs: list[DescribedTensor], schema: JsonObject
) -> None:
    """Like predictions; an output of unknown shape accepts any value."""
    assert ModelDescription([], outputs).output_schema() == schema


def test_a_mapping_chooses_outputs_by_its_keys() -> None:
    """In its order; if one is not described, the predictions are not."""
    outputs = [tensor("out_0", "FP32", ()), tensor("out_1", "INT64", ())]
    assert [each.key for each in chosen(outputs, {"items": "out_1", "scores": "out_0"})] == [
        "items",
        "scores",
    ]
    assert ModelDescription([], chosen(outputs, {"items": "out_1"})).output_schema() == {"type": "integer"}
    assert chosen(outputs, {"items": "out_1", "more": "out_2"}) == ()
    assert chosen(outputs, {}) == tuple(outputs)


METADATA: JsonObject = {
    "inputs": [{"name": "in_0", "datatype": "INT32", "shape": [-1, 3]}],
    "outputs": [{"name": "out_0", "datatype": "FP32", "shape": [-1]}],
}


def test_metadata_of_the_open_inference_protocol() -> None:
    """By the model's names, or by the keys of a mapping."""
    plain = read_metadata(orjson.dumps(METADATA), [])
    assert plain == ModelDescription((tensor("in_0", "INT32", (3,)),), (tensor("out_0", "FP32", ()),))
    declared = [TensorSpec("in_0", np.dtype("int32"), (3,), "rows")]
    mapped = read_metadata(orjson.dumps(METADATA), declared, {"score": "out_0"})
    assert mapped is not None
    assert [mapped.inputs[0].key, mapped.outputs[0].key] == ["rows", "score"]


@pytest.mark.parametrize(
    "metadata",
    [
        [],
        {},
        {"inputs": []},
        {"inputs": 3},
        {"inputs": [3]},
        {"inputs": [{"name": ["x"], "datatype": "INT32", "shape": [-1]}]},
        {"inputs": [{"name": "x", "datatype": "BF16", "shape": [-1]}]},
    ],
)
def test_metadata_that_tells_nothing(metadata: Any) -> None:
    """Unusable metadata gives no description and no error."""
    assert read_metadata(orjson.dumps(metadata), []) is None


def signature(dtype: str = "DT_FLOAT", sizes: tuple[str, ...] = ("-1", "3")) -> JsonObject:
    """A signature in the JSON form that TensorFlow Serving documents for `/metadata`."""
    described = {
        "dtype": dtype,
        "tensor_shape": {"dim": [{"size": size, "name": ""} for size in sizes], "unknown_rank": not sizes},
        "name": "serving_default_x:0",
    }
    return {"inputs": {"x": described}, "outputs": {"y": described}, "method_name": "predict"}


def served(**signatures: JsonObject) -> bytes:
    return orjson.dumps(
        {"model_spec": {"name": "m"}, "metadata": {"signature_def": {"signature_def": signatures}}}
    )


def test_signature_of_tensorflow_serving() -> None:
    """The default signature or the version's, by the model's names or the keys of a mapping."""
    body = served(serving_default=signature(), other=signature("DT_STRING", ("-1",)))
    assert read_signature(body, None, None, None) == ModelDescription(
        (tensor("x", "FP32", (3,)),), (tensor("y", "FP32", (3,)),)
    )
    mapped = read_signature(body, "other", {"text": "x"}, {"label": "y"})
    assert mapped == ModelDescription(
        (DescribedTensor("text", "x", Datatype.BYTES, ()),),
        (DescribedTensor("label", "y", Datatype.BYTES, ()),),
    )
    unknown_rank = read_signature(served(serving_default=signature(sizes=())), None, None, None)
    assert unknown_rank is not None
    assert unknown_rank.inputs[0].shape is None


@pytest.mark.parametrize(
    "body",
    [
        b"<html>",
        b"[]",
        b'{"error": "no"}',
        b'{"metadata": []}',
        served(other=signature()),
        served(serving_default=signature("DT_BFLOAT16")),
        served(serving_default=signature(sizes=("many",))),
        served(serving_default={"inputs": [], "outputs": {}}),
        served(serving_default={"inputs": {"x": 3}, "outputs": {}}),
    ],
)
def test_a_signature_that_tells_nothing(body: bytes) -> None:
    """Other servers with this REST interface have no metadata, or another form."""
    assert read_signature(body, None, None, None) is None
