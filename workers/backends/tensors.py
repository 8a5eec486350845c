"""PURE mapping between JSON and tensors in both directions; `docs/backends.md` describes it for users.

The keys of an input are the model's input names, and each value is one example without the batch
dimension. A value is nested lists of exactly the declared shape, or a plain value for an empty shape. No
conversion changes a value: a float is accepted as an integer only when it is whole (as in JSON Schema), an
integer must fit its type, and strings are never parsed as numbers. A null is a missing value, NaN, only in a tensor
of floating-point numbers that takes it. Keys without a model input are ignored; the input schema decides whether they
are allowed.
"""

from array import array
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from math import nan
from typing import Any

import numpy as np
import numpy.typing as npt

from schemas.errors import BackendBrokenError, BackendFailedError, NonFiniteResultError
from schemas.events import JsonObject
from schemas.mapping import Mapping as InputMapping
from workers.backends.misfits import misfit

Tensor = npt.NDArray[Any]
Shape = tuple[int | None, ...]

STRING: np.dtype[Any] = np.dtype(object)

# By the names of the Open Inference Protocol.
DTYPES: Mapping[str, np.dtype[Any]] = {
    "BOOL": np.dtype("bool"),
    "BYTES": STRING,
    **{f"FP{bits}": np.dtype(f"float{bits}") for bits in (16, 32, 64)},
    **{f"INT{bits}": np.dtype(f"int{bits}") for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": np.dtype(f"uint{bits}") for bits in (8, 16, 32, 64)},
}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input of a model.

    `shape` is that of one example, without the batch dimension; a size of None is open. Strings have the
    dtype STRING. The value is at `key` of a request's input, which is the name unless a mapping has another. A null in it
    becomes NaN with `takes_null`. An `optional` one may be missing. Without `has_batch` the tensor has no batch dimension,
    and the examples of a call share its value. Model servers read `content_type`, and strings that are base64.
    """

    name: str
    dtype: np.dtype[Any]
    shape: Shape
    mapped_key: str | None = None
    takes_null: bool = False
    optional: bool = False
    has_batch: bool = True
    content_type: str | None = None
    is_base64: bool = False

    @property
    def key(self) -> str:
        return self.name if self.mapped_key is None else self.mapped_key


def declared(mapping: InputMapping) -> list[TensorSpec]:
    """The tensors that a version's mapping declares for its inputs."""
    return [
        TensorSpec(
            tensor.tensor or key,
            DTYPES[tensor.datatype],
            tuple(size if size >= 0 else None for size in tensor.shape),
            key,
            tensor.null is not None,
            content_type=tensor.content_type,
            is_base64=tensor.is_base64,
        )
        for key, tensor in mapping.inputs.items()
    ]


def to_tensors(specs: Sequence[TensorSpec], inputs: Sequence[JsonObject]) -> dict[str, Tensor]:
    """One tensor of shape [len(inputs), *shape] for each spec, by name, with the inputs in order.

    The inputs are `alike`. A tensor without a batch dimension has `shape` itself, and an optional one is left out that they
    do not have. Raises BackendFailedError when any input does not fit.
    """
    tensors: dict[str, Tensor] = {}
    for spec in specs:
        key = spec.key
        if spec.optional and key not in inputs[0]:
            continue
        try:
            values = [example[key] for example in inputs]
        except KeyError:
            raise BackendFailedError(f"the model needs an input {key!r}") from None
        if spec.has_batch:
            tensors[spec.name] = _to_tensor(spec, values)
        else:
            shared = _to_tensor(spec, values[:1])
            tensors[spec.name] = shared.reshape(shared.shape[1:])
    return tensors


def alike(specs: Sequence[TensorSpec], inputs: Sequence[JsonObject]) -> list[list[int]]:
    """Groups of indices of inputs that may share a call.

    They have equal sizes in open dimensions, equal values of tensors without a batch, and the same optional ones: one
    group, unless the specs have such.
    """
    if not inputs:
        return []
    varying = [spec for spec in specs if None in spec.shape or spec.optional or not spec.has_batch]
    if not varying:
        return [list(range(len(inputs)))]
    groups: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for index, example in enumerate(inputs):
        groups[tuple(_form(spec, example) for spec in varying)].append(index)
    return list(groups.values())


def to_predictions(
    outputs: Mapping[str, Sequence[Any]], chosen: Mapping[str, str] | None = None
) -> list[Any]:
    """One prediction for each example: the value of the only output, or an object by output name.

    `outputs` has a value for each example. `chosen` are the output names of a mapping by their keys in the
    prediction. Raises BackendBrokenError when one of them is missing.
    """
    if chosen:
        try:
            outputs = {key: outputs[name] for key, name in chosen.items()}
        except KeyError as error:
            raise BackendBrokenError(f"the model has no output {error}") from None
    if len(outputs) == 1:
        return list(next(iter(outputs.values())))
    predictions: list[JsonObject] = [{} for _ in next(iter(outputs.values()), ())]
    # Column by column takes a tenth of the time of a `dict(zip(...))` for each row.
    for name, values in outputs.items():
        for prediction, value in zip(predictions, values, strict=True):
            prediction[name] = value
    return predictions


def to_values(name: str, tensor: Tensor, count: int) -> list[Any]:
    """The value of an output for each of `count` examples.

    NaN and Infinity are left in; `non_finite_rows` finds them. Raises BackendFailedError when its first
    dimension is not `count`.
    """
    if tensor.shape[:1] != (count,):
        raise BackendFailedError(
            f"output {name!r} has shape {list(tensor.shape)}; its first dimension must be {count}, the batch"
        )
    values: list[Any] = tensor.tolist()
    return values


def non_finite_rows(name: str, tensor: Tensor) -> dict[int, NonFiniteResultError]:
    """The error of each example for which an output has NaN or Infinity, which JSON cannot represent."""
    if tensor.dtype.kind != "f":
        return {}
    finite = np.isfinite(tensor)
    if finite.all():
        return {}
    message = f"output {name!r} has NaN or Infinity, which JSON cannot represent"
    rows = finite.reshape(len(tensor), -1).all(axis=1)
    return {row: NonFiniteResultError(message) for row in np.flatnonzero(~rows).tolist()}


def misfit_of(specs: Sequence[TensorSpec], example: JsonObject) -> str | None:
    """Why an input does not fit; None when it does."""
    for spec in specs:
        if spec.key not in example:
            if spec.optional:
                continue
            return f"the model needs an input {spec.key!r}"
        found = misfit(spec.key, spec.dtype, spec.shape, example[spec.key], takes_null=spec.takes_null)
        if found is not None:
            return found
    return None


def _to_tensor(spec: TensorSpec, values: list[Any]) -> Tensor:
    try:
        return _packed(spec, values)
    except (TypeError, OverflowError):
        raise BackendFailedError(_reason(spec, values)) from None


def _packed(spec: TensorSpec, values: list[Any]) -> Tensor:
    """Raises TypeError or OverflowError for values that would change."""
    shape = [len(values)]
    for size in spec.shape:
        if set(map(type, values)) - {list}:
            raise TypeError
        sizes = set(map(len, values)) or {size or 0}
        shape.append(sizes.pop())
        if sizes or size not in (None, shape[-1]):
            raise TypeError
        values = list(chain.from_iterable(values))
    return _flat(spec, values).reshape(shape)


def _flat(spec: TensorSpec, values: list[Any]) -> Tensor:
    """A one-dimensional tensor; raises TypeError or OverflowError for values that would change.

    Numbers are converted by `array`: numpy's conversion parses strings as numbers, truncates floats to
    integers, and is not faster.
    """
    dtype = spec.dtype
    if dtype.kind in "Ob":
        if set(map(type, values)) - {str if dtype == STRING else bool}:
            raise TypeError
        return np.array(values, dtype=dtype)
    if dtype.kind == "f":
        return _floats(dtype, values, takes_null=spec.takes_null)
    try:
        packed = array(dtype.char, values)
    except TypeError:
        packed = array(dtype.char, [_whole(value) for value in values])
    return np.frombuffer(packed, dtype)


def _floats(dtype: np.dtype[Any], values: list[Any], *, takes_null: bool) -> Tensor:
    # `array` has no half precision.
    code = "d" if dtype == np.float16 else dtype.char
    try:
        packed = array(code, values)
    except TypeError:
        if not takes_null:
            raise
        packed = array(code, [nan if value is None else value for value in values])
    with np.errstate(over="ignore"):
        tensor = np.frombuffer(packed, code).astype(dtype, copy=False)
    # JSON has no NaN, so it is a null. Infinity is a number that is too large for the type.
    if not np.isfinite(tensor).all() and (not takes_null or np.isinf(tensor).any()):
        raise OverflowError
    return tensor


def _reason(spec: TensorSpec, values: list[Any]) -> str:
    """Why the first example that does not fit does not."""
    for value in values:
        try:
            _packed(spec, [value])
        except (TypeError, OverflowError):
            found = misfit_of([spec], {spec.key: value})
            if found is not None:
                return found
    return f"the examples of one call have different sizes of {spec.key!r}"


def _whole(value: Any) -> Any:
    return int(value) if type(value) is float and value.is_integer() else value


def _form(spec: TensorSpec, example: JsonObject) -> Any:
    """What the inputs of a call have in common at one key."""
    value = example.get(spec.key)
    if not spec.has_batch:
        # Values of different types may be equal, as 1 and true are.
        return repr(value)
    if spec.optional and spec.key not in example:
        return None
    return _sizes(value)


def _sizes(value: Any) -> tuple[int, ...]:
    sizes: list[int] = []
    while type(value) is list:
        sizes.append(len(value))
        value = value[0] if value else None
    return tuple(sizes)
