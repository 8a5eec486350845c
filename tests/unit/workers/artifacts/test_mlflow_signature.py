"""workers/artifacts/mlflow_signature.py: schemas from an ONNX file and the signature beside it."""

from typing import Any

import pytest

from schemas.events import JsonObject
from schemas.json_schema import compile_schema
from schemas.mapping import Datatype
from workers.artifacts.mlflow_signature import Schemas, schemas_of
from workers.artifacts.mlmodel import MlModel
from workers.backends.description import DescribedTensor, ModelDescription
from workers.backends.tensors import Shape

NUMBER = {"type": "number"}


def tensor(name: str | None, dtype: str, *shape: int) -> JsonObject:
    """A tensor as MLflow writes it, with the batch dimension."""
    spec = {"type": "tensor", "tensor-spec": {"dtype": dtype, "shape": list(shape)}}
    return spec if name is None else {"name": name, **spec}


def column(name: str | None, kind: Any, *, required: bool = True) -> JsonObject:
    """A column as MLflow writes it; `kind` is a type, or a list of one type for an array."""
    written: JsonObject = (
        {"type": kind} if isinstance(kind, str) else {"type": "array", "items": {"type": kind[0]}}
    )
    return written | {"required": required} | ({} if name is None else {"name": name})


def onnx(name: str, datatype: Datatype, *shape: int | None) -> DescribedTensor:
    return DescribedTensor(name, name, datatype, shape)


def schemas(
    inputs: list[DescribedTensor],
    signature: list[JsonObject] | None,
    outputs: list[DescribedTensor] | None = None,
    output_signature: list[JsonObject] | None = None,
    params: tuple[str, ...] = (),
) -> Schemas:
    described = ModelDescription(inputs, outputs or [onnx("y", Datatype.FP32)])
    own, other = (None if side is None else tuple(side) for side in (signature, output_signature))
    return schemas_of(described, MlModel("model.onnx", own, other, params))


def property_of(result: Schemas, key: str) -> Any:
    return result.input_schema["properties"][key]


def notes_on(side: str, result: Schemas) -> list[str]:
    return [note for note in result.notes if side in note]


def test_without_a_signature_the_file_alone_counts() -> None:
    """A note says so."""
    result = schemas([onnx("x", Datatype.INT64, None)], None)
    assert property_of(result, "x")["type"] == "array"
    assert result.output_schema == NUMBER
    assert len(result.notes) == 2
    assert all("no signature" in note for note in result.notes)


def test_a_tensor_fills_in_sizes_that_the_file_leaves_open() -> None:
    """Tensors match by name, or a single one without a name; sizes of the file are kept."""
    for name in ("x", None):
        result = schemas([onnx("x", Datatype.FP32, None, 2)], [tensor(name, "float64", -1, 3, -1)])
        outer = property_of(result, "x")
        assert (outer["minItems"], outer["maxItems"]) == (3, 3)
        assert (outer["items"]["minItems"], outer["items"]["items"]) == (2, NUMBER)
        assert notes_on("inputs", result) == []


def test_several_tensors_by_their_names() -> None:
    """In any order; further tensors of the signature are ignored."""
    result = schemas(
        [onnx("a", Datatype.FP32), onnx("b", Datatype.BYTES, None)],
        [tensor("c", "int64", -1), tensor("b", "object", -1, 4), tensor("a", "float32", -1)],
    )
    assert result.input_schema["required"] == ["a", "b"]
    assert property_of(result, "a") == NUMBER
    assert property_of(result, "b") == {
        "type": "array",
        "items": {"type": "string"},
        "minItems": 4,
        "maxItems": 4,
    }
    assert notes_on("inputs", result) == []


@pytest.mark.parametrize(
    ("datatype", "shape", "signature"),
    [
        (Datatype.FP32, (3,), [tensor("x", "float32", -1, 4)]),
        (Datatype.FP32, (3,), [tensor("x", "float32", -1, 3, 1)]),
        (Datatype.FP32, (3,), [tensor("x", "object", -1, 3)]),
        (Datatype.BOOL, (), [tensor("x", "int64", -1)]),
        (Datatype.FP32, (3,), [tensor("a", "float32", -1), tensor("b", "float32", -1)]),
        (Datatype.FP32, (3,), [column("a", "double"), column("b", "double")]),
        (Datatype.FP32, (2,), [column("a", "double"), column("b", "string")]),
    ],
)
def test_a_signature_of_another_model_is_left_out(
    datatype: Datatype, shape: Shape, signature: list[JsonObject]
) -> None:
    """The schema follows the file, and a note has the names of both."""
    result = schemas([onnx("x", datatype, *shape)], signature)
    alone = ModelDescription([onnx("x", datatype, *shape)], []).input_schema()
    assert result.input_schema == alone
    (note,) = notes_on("inputs", result)
    assert "are not those of the ONNX file (x)" in note


@pytest.mark.parametrize(
    ("written", "told"),
    [
        (column("x", "datetime"), "x: datetime"),
        (column(None, "object"), "unnamed: object"),
        ({"type": "tensor"}, "unnamed: tensor"),
        ({"type": "tensor", "tensor-spec": {"dtype": 1, "shape": ["a"]}}, "unnamed: tensor"),
        ({}, "unnamed: None"),
    ],
)
def test_a_type_that_no_tensor_has_is_told(written: JsonObject, told: str) -> None:
    """The schema follows the file; the note names the column and its type, not those beside it."""
    file = [onnx("x", Datatype.FP32), onnx("y", Datatype.FP32)]
    result = schemas(file, [column("y", "double"), written])
    assert result.input_schema == ModelDescription(file, []).input_schema()
    (note,) = notes_on("inputs", result)
    assert f"have types that no tensor has ({told});" in note


def test_optional_columns_stay_optional_where_a_tensor_has_missing_values() -> None:
    """As null; a note says so, and where it is not possible."""
    features = DescribedTensor("features", "features", Datatype.FP32, (3,), takes_null=True)
    signature = [
        column("age", "long", required=False),
        column("size", "long"),
        column("x", "double", required=False),
    ]
    result = schemas([features], signature)
    accepts = compile_schema(result.input_schema).is_valid
    assert accepts({"features": [None, 2, None]})
    assert not accepts({"features": [1, None, 2.5]})
    assert [note for note in result.notes if "optional" in note] == [
        f"the column {name} is optional in MLflow; here null stands for a missing value"
        for name in ("age", "x")
    ]
    result = schemas([onnx("city", Datatype.BYTES)], [column("city", "string", required=False)])
    assert (
        "the column city is optional in MLflow and required here, since BYTES has no missing value"
        in result.notes
    )


def test_params_are_noted() -> None:
    """MLflow hands them to a model; a file of ONNX takes none."""
    notes = schemas([onnx("x", Datatype.FP32)], None, params=("temperature", "top_k")).notes
    assert notes[-1] == "the signature's params (temperature, top_k) are left out: an ONNX file has none"


def test_columns_of_a_model_with_one_vector_are_named_in_their_order() -> None:
    """MLflow makes a vector of a row; a column of integers stays one of integers."""
    result = schemas(
        [onnx("features", Datatype.FP32, None)],
        [column("age", "long"), column("income", "double"), column("ratio", "float", required=False)],
    )
    assert property_of(result, "features") == {
        "type": "array",
        "items": NUMBER,
        "minItems": 3,
        "maxItems": 3,
        "prefixItems": [
            {"title": "age", "type": "integer"},
            {"title": "income", "type": "number"},
            {"title": "ratio", "type": "number"},
        ],
    }
    accepts = compile_schema(result.input_schema).is_valid
    assert accepts({"features": [30, 1.5, 0.5]})
    assert not accepts({"features": [30.5, 1.5, 0.5]})
    assert not accepts({"features": [30, 1.5]})


def test_columns_of_a_model_with_several_inputs_are_its_inputs() -> None:
    """Each is a value, or a list of one where the file has that shape, or an array for an array column."""
    result = schemas(
        [
            onnx("a", Datatype.FP32),
            onnx("b", Datatype.INT64, 1),
            onnx("c", Datatype.FP64, None),
            onnx("d", Datatype.BYTES, None),
        ],
        [column("a", "double"), column("b", "long"), column("c", ["double"]), column("d", "string")],
    )
    assert property_of(result, "a") == NUMBER
    assert property_of(result, "b")["maxItems"] == 1
    assert property_of(result, "c") == {"type": "array", "items": NUMBER}
    assert property_of(result, "d")["maxItems"] == 1
    assert notes_on("inputs", result) == []


def test_one_column_may_have_another_name() -> None:
    """There is only one input to match."""
    result = schemas([onnx("x", Datatype.FP32)], [column("amount", "double")])
    assert (property_of(result, "x"), notes_on("inputs", result)) == (NUMBER, [])


def test_outputs_are_treated_alike() -> None:
    """Several match by name; integers of a prediction have no bounds."""
    outputs = [onnx("items", Datatype.INT64, None), onnx("scores", Datatype.FP32, None)]
    signature = [tensor("scores", "float32", -1, 10), tensor("items", "int64", -1, 10)]
    result = schemas([onnx("x", Datatype.FP32)], None, outputs, signature)
    items = result.output_schema["properties"]["items"]
    assert items == {"type": "array", "items": {"type": "integer"}, "minItems": 10, "maxItems": 10}
    assert notes_on("outputs", result) == []


def test_an_output_whose_shape_is_not_told_has_that_of_the_signature() -> None:
    """Without a signature it may have any shape."""
    untold = [DescribedTensor("y", "y", Datatype.FP32, None)]
    result = schemas([onnx("x", Datatype.FP32)], None, untold, [tensor(None, "float32", -1, 2)])
    assert result.output_schema == {"type": "array", "items": NUMBER, "minItems": 2, "maxItems": 2}
    assert schemas([onnx("x", Datatype.FP32)], None, untold).output_schema == {}


def test_outputs_that_the_file_has_more_of() -> None:
    """A classifier has label and probabilities, and its signature the label: the schema has both, with a note."""
    outputs = [onnx("label", Datatype.INT64), onnx("probabilities", Datatype.FP32, 2)]
    result = schemas([onnx("x", Datatype.FP32)], None, outputs, [tensor(None, "int64", -1)])
    assert result.output_schema["required"] == ["label", "probabilities"]
    assert "(unnamed) are not those of the ONNX file (label, probabilities)" in notes_on("outputs", result)[0]
