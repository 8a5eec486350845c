"""workers/backends/tensors.py: JSON values become exactly the tensors that they say, or are refused."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from schemas.errors import BackendBrokenError, BackendFailedError
from schemas.events import JsonObject
from schemas.mapping import Mapping as InputMapping
from workers.backends.misfits import misfit
from workers.backends.tensors import (
    STRING,
    Shape,
    TensorSpec,
    alike,
    declared,
    non_finite_rows,
    to_predictions,
    to_tensors,
    to_values,
)

# All integer types, and double precision.
NUMBERS = [np.dtype(code) for code in "bhilBHILd"]


def tensor_of(dtype: Any, shape: Shape, *values: Any) -> np.ndarray[Any, Any]:
    spec = TensorSpec("x", np.dtype(dtype), shape)
    return to_tensors([spec], [{"x": value} for value in values])["x"]


@given(st.data())
def test_what_a_tensor_says_comes_back(data: st.DataObject) -> None:
    """Finite numbers of any type and shape are equal after conversion to JSON values and back."""
    dtype = data.draw(st.sampled_from([*NUMBERS, np.dtype("float32"), np.dtype("float16"), np.dtype(bool)]))
    shape = data.draw(st_numpy.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=4))
    elements = {"allow_nan": False, "allow_infinity": False} if dtype.kind == "f" else None
    tensor = data.draw(st_numpy.arrays(dtype, shape, elements=elements))
    values = to_values("x", tensor, shape[0])
    built = tensor_of(dtype, shape[1:], *values)
    assert built.dtype == dtype
    assert built.shape == shape
    assert np.array_equal(built, tensor)


@given(st.lists(st.text(), min_size=1), st.sampled_from(NUMBERS))
def test_strings_stay_strings(values: list[str], number: np.dtype[Any]) -> None:
    """A string tensor holds them unchanged, and they are never parsed as numbers."""
    assert tensor_of(STRING, (), *values).tolist() == values
    with pytest.raises(BackendFailedError):
        tensor_of(number, (), *values)


@given(st.integers(-(2**63), 2**64 - 1), st.sampled_from(NUMBERS))
def test_integers_fit_or_are_refused(value: int, dtype: np.dtype[Any]) -> None:
    """No integer wraps around."""
    if dtype.kind == "f" or np.iinfo(dtype).min <= value <= np.iinfo(dtype).max:
        assert tensor_of(dtype, (), value).tolist() == [float(value) if dtype.kind == "f" else value]
    else:
        with pytest.raises(BackendFailedError):
            tensor_of(dtype, (), value)


@pytest.mark.parametrize(
    ("dtype", "value", "reason"),
    [
        ("int64", 1.5, "x is 1.5, and an integer is wanted"),
        ("int64", 1e30, "x is 1e30, which does not fit int64"),
        ("int64", None, "x is null, and an integer is wanted"),
        ("int64", "1", "x is a string, and an integer is wanted"),
        ("int64", {}, "x is an object, and an integer is wanted"),
        ("int64", [1], "x is a list, and an integer is wanted"),
        ("uint64", -1, "x is -1, which does not fit uint64"),
        ("uint8", 256, "x is 256, which does not fit uint8"),
        ("int64", 10**20, "x is 100000000000000000000, which does not fit int64"),
        ("int64", 10**50, "x is an integer of more than 40 digits, which does not fit int64"),
        ("float32", 1e39, "x is 1e39, which does not fit float32"),
        ("float16", 1e5, "x is 100000.0, which does not fit float16"),
        ("float32", 10**400, "x is an integer of more than 40 digits, which does not fit float32"),
        ("float32", "1.5", "x is a string, and a number is wanted"),
        ("float32", None, "x is null, and a number is wanted"),
        ("bool", 1, "x is a number, and true or false is wanted"),
        (STRING, 1, "x is a number, and a string is wanted"),
        (STRING, True, "x is true, and a string is wanted"),
        (STRING, None, "x is null, and a string is wanted"),
        (STRING, ["a"], "x is a list, and a string is wanted"),
    ],
)
def test_nothing_is_cast_that_would_change_it(dtype: Any, value: Any, reason: str) -> None:
    """The message says what was found and what is wanted."""
    with pytest.raises(BackendFailedError) as refused:
        tensor_of(dtype, (), value)
    assert str(refused.value) == reason


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_null_is_nan_where_a_tensor_takes_it(dtype: str) -> None:
    """At any place, beside other values that stay as they are; Infinity is refused all the same."""
    spec = TensorSpec("x", np.dtype(dtype), (2,), takes_null=True)
    inputs: list[JsonObject] = [{"x": [1, None]}, {"x": [0.5, -2.0]}, {"x": [None, None]}]
    built = to_tensors([spec], inputs)["x"]
    assert built.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(built, np.array([[1, np.nan], [0.5, -2.0], [np.nan, np.nan]], dtype))
    with pytest.raises(BackendFailedError, match=r"^x\[1\] is an integer of more than 40 digits"):
        to_tensors([spec], [{"x": [None, 10**400]}])


def test_the_first_bad_example_of_a_batch_is_told() -> None:
    """A batch whose examples all fail is answered as a whole."""
    with pytest.raises(BackendFailedError, match=r"^x\[0\] is null, and a number is wanted$"):
        tensor_of("float32", (2,), [1, 2], [None, 1], ["a"])


def test_a_whole_float_is_an_integer() -> None:
    """As in JSON Schema; other values of the batch keep every digit."""
    assert tensor_of("int64", (), 2.0, 2**53 + 1).tolist() == [2, 2**53 + 1]


@pytest.mark.parametrize(
    ("shape", "value", "reason"),
    [
        ((2,), [1], "x has 1 value, 2 are wanted"),
        ((30,), [0] * 29, "x has 29 values, 30 are wanted"),
        ((1,), [1, 2], "x has 2 values, 1 is wanted"),
        ((2,), 1, "x is a number, and a list is wanted"),
        ((2,), None, "x is null, and a list is wanted"),
        ((2,), [[1, 2]], "x has 1 value, 2 are wanted"),
        ((2,), [1, None], "x[1] is null, and an integer is wanted"),
        ((), [1], "x is a list, and an integer is wanted"),
        ((2, 2), [[1, 2], [3]], "x[1] has 1 value, 2 are wanted"),
        ((2, 2), [[1, 2], 3], "x[1] is a number, and a list is wanted"),
        ((2, 2), [[1, 2, 3, 4]], "x has 1 value, 2 are wanted"),
        ((None,), 1, "x is a number, and a list is wanted"),
        ((None, 2), [[1]], "x[0] has 1 value, 2 are wanted"),
        ((None, None), [[1, 2], [3]], "x[1] has 1 value, 2 are wanted"),
        ((2,), "ab", "x is a string, and a list is wanted"),
        ((2,), {"a": 1, "b": 2}, "x is an object, and a list is wanted"),
    ],
)
def test_shapes_are_exact(shape: Shape, value: Any, reason: str) -> None:
    """Another rank or size and ragged lists are refused with the path, also in a batch with good examples."""
    good = np.zeros([size or 1 for size in shape], int).tolist()
    with pytest.raises(BackendFailedError) as refused:
        tensor_of("int64", shape, good, value)
    assert str(refused.value) == reason


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.just("a"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.just("k"), inner, max_size=1),
    max_leaves=6,
)


@given(
    st.sampled_from([*NUMBERS, np.dtype("float32"), np.dtype("float16"), np.dtype(bool), STRING]),
    st.lists(st.none() | st.integers(0, 2), max_size=2).map(tuple),
    VALUES,
    st.booleans(),
)
def test_what_is_refused_has_a_reason(
    dtype: np.dtype[Any], shape: Shape, value: Any, takes_null: bool
) -> None:
    """The explanation, which is a walk of its own, agrees with the conversion about every value."""
    takes_null = takes_null and dtype.kind == "f"
    spec = TensorSpec("x", dtype, shape, takes_null=takes_null)
    reason = misfit("x", dtype, shape, value, takes_null=takes_null)
    if reason is None:
        assert to_tensors([spec], [{"x": value}])["x"].shape[:1] == (1,)
    else:
        with pytest.raises(BackendFailedError) as refused:
            to_tensors([spec], [{"x": value}])
        assert str(refused.value) == reason


def test_a_string_is_not_a_list_of_letters() -> None:
    """It is refused where a list of strings is required."""
    with pytest.raises(BackendFailedError):
        tensor_of(STRING, (2,), "ab")


def test_inputs_are_found_by_name() -> None:
    """Other keys are ignored; a missing one is named."""
    specs = [TensorSpec("a", np.dtype("int64"), ()), TensorSpec("b", STRING, ())]
    tensors = to_tensors(specs, [{"b": "x", "a": 1, "more": None}, {"a": 2, "b": "y"}])
    assert {name: tensor.tolist() for name, tensor in tensors.items()} == {"a": [1, 2], "b": ["x", "y"]}
    with pytest.raises(BackendFailedError, match="needs an input 'b'"):
        to_tensors(specs, [{"a": 1}])


def test_open_sizes_are_grouped() -> None:
    """Examples of equal sizes share a tensor; each example is in one group."""
    specs = [TensorSpec("a", np.dtype("int64"), (None,)), TensorSpec("b", np.dtype("int64"), ())]
    inputs: list[JsonObject] = [
        {"a": [1], "b": 1},
        {"a": [1, 2], "b": 1},
        {"a": [3], "b": 1},
        {"b": 1},
        {"a": [], "b": 1},
    ]
    assert alike(specs, inputs) == [[0, 2], [1], [3], [4]]
    assert alike(specs[1:], inputs) == [[0, 1, 2, 3, 4]]


def test_inputs_that_share_a_value_or_lack_the_same_are_grouped() -> None:
    """A tensor without a batch dimension has one value in a call, and an optional one is there or not."""
    specs = [
        TensorSpec("x", np.dtype("float32"), ()),
        TensorSpec("rate", np.dtype("int64"), (), has_batch=False),
        TensorSpec("bias", np.dtype("float32"), (2,), optional=True),
    ]
    inputs: list[JsonObject] = [
        {"x": 1, "rate": 8},
        {"x": 2, "rate": 16},
        {"x": 3, "rate": 8},
        {"x": 4, "rate": 8, "bias": [0, 1]},
        {"x": 5, "rate": True},
        {"x": 6},
    ]
    assert alike(specs, inputs) == [[0, 2], [1], [3], [4], [5]]
    shared = to_tensors(specs, [inputs[0], inputs[2]])
    assert {name: tensor.tolist() for name, tensor in shared.items()} == {"x": [1.0, 3.0], "rate": 8}
    assert to_tensors(specs, [inputs[3]])["bias"].shape == (1, 2)
    with pytest.raises(BackendFailedError, match="needs an input 'rate'"):
        to_tensors(specs, [inputs[5]])


def test_predictions_are_bare_or_by_name() -> None:
    """A single output is its value; several are an object."""
    assert to_predictions({"y": [1, 2]}) == [1, 2]
    assert to_predictions({"y": [1, 2], "z": ["a", "b"]}) == [{"y": 1, "z": "a"}, {"y": 2, "z": "b"}]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_rows_that_json_has_not_are_known(bad: float) -> None:
    """NaN and both infinities, at any position; only their examples have an error."""
    errors = non_finite_rows("y", np.array([[1.0, 2.0], [3.0, bad], [5.0, 6.0]], np.float32))
    assert errors.keys() == {1}
    assert "'y' has NaN or Infinity" in str(errors[1])
    assert list(non_finite_rows("y", np.array([bad, 1.0]))) == [0]
    assert non_finite_rows("y", np.array([1.0, 2.0])) == {}
    assert non_finite_rows("y", np.array(["a"], object)) == {}


@pytest.mark.parametrize("tensor", [np.array(1.0), np.array([1.0]), np.zeros((3, 2))])
def test_outputs_of_another_batch_are_refused(tensor: np.ndarray[Any, Any]) -> None:
    """The first dimension of an output must be the batch size."""
    with pytest.raises(BackendFailedError, match="first dimension must be 2"):
        to_values("y", tensor, 2)


def test_declared_tensors_take_their_values_from_the_mapped_keys() -> None:
    """The model's name is the key unless the mapping has another; a size of -1 is open."""
    mapping = InputMapping.model_validate(
        {
            "inputs": {
                "age": {"tensor": "input_1", "datatype": "FP32"},
                "tokens": {"datatype": "INT64", "shape": [-1, 2]},
                "holes": {"datatype": "FP64", "null": "nan"},
            }
        }
    )
    *specs, holes = declared(mapping)
    assert [(spec.name, spec.key, spec.shape, spec.takes_null) for spec in specs] == [
        ("input_1", "age", (), False),
        ("tokens", "tokens", (None, 2), False),
    ]
    assert holes.takes_null
    inputs: list[JsonObject] = [
        {"age": 4, "tokens": [[1, 2]], "more": 1},
        {"age": 5.5, "tokens": [[3, 4]]},
        {"age": 6, "tokens": []},
    ]
    assert alike(specs, inputs) == [[0, 1], [2]]
    tensors = to_tensors(specs, inputs[:2])
    assert tensors["input_1"].dtype == np.float32
    assert {name: tensor.tolist() for name, tensor in tensors.items()} == {
        "input_1": [4.0, 5.5],
        "tokens": [[[1, 2]], [[3, 4]]],
    }


@pytest.mark.parametrize(
    ("example", "told"),
    [
        ({"input_1": 4}, "needs an input 'age'"),
        ({"age": "4"}, "^age is a string, and a number is wanted"),
        ({"age": [4]}, "^age is a list, and a number is wanted"),
    ],
)
def test_what_does_not_fit_is_told_by_the_users_key(example: JsonObject, told: str) -> None:
    """Users do not know the model's names."""
    specs = [TensorSpec("input_1", np.dtype("float32"), (), "age")]
    with pytest.raises(BackendFailedError, match=told):
        to_tensors(specs, [{"age": 1}, example])


def test_chosen_outputs_have_the_versions_names() -> None:
    """A single output is the prediction itself; a missing output is a server fault."""
    outputs: dict[str, list[Any]] = {"y": [1, 2], "z": ["a", "b"]}
    assert to_predictions(outputs, {"mine": "z"}) == ["a", "b"]
    assert to_predictions(outputs, {"p": "z", "q": "y"}) == [{"p": "a", "q": 1}, {"p": "b", "q": 2}]
    assert to_predictions(outputs, {}) == to_predictions(outputs)
    with pytest.raises(BackendBrokenError, match="no output 'missing'"):
        to_predictions(outputs, {"p": "missing"})
