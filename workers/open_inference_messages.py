"""PURE. Messages of the Open Inference Protocol, version 2, in JSON: inputs in, predictions out.

Tensors travel as `{"name", "datatype", "shape", "data"}`, data in row-major order, flat as we send
it, flat or nested as servers may send it. The first dimension is the batch.
"""

import math
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import orjson

from schemas.errors import ArtifactError, BackendFailedError
from schemas.events import JsonObject
from workers.tensors import STRING, TensorSpec, to_predictions, to_tensors

_DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("bool"),
    "BYTES": STRING,
    **{f"FP{bits}": np.dtype(f"float{bits}") for bits in (16, 32, 64)},
    **{f"INT{bits}": np.dtype(f"int{bits}") for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": np.dtype(f"uint{bits}") for bits in (8, 16, 32, 64)},
}
_DATATYPES = {dtype: datatype for datatype, dtype in _DTYPES.items()}
_SCHEMA_DTYPES: dict[str, np.dtype[Any]] = {
    "boolean": np.dtype("bool"),
    "integer": np.dtype("int64"),
    "number": np.dtype("float64"),
    "string": STRING,
}
_NUMBER_TYPES = frozenset({int, float})
_EXCERPT_CHARACTERS = 200


def write_request(request_id: str, specs: Sequence[TensorSpec], inputs: Sequence[JsonObject]) -> bytes:
    """The body that asks for predictions; raises BackendFailedError when an input does not fit."""
    return orjson.dumps(
        {
            "id": request_id,
            "inputs": [
                {
                    "name": name,
                    "datatype": _DATATYPES[tensor.dtype],
                    "shape": tensor.shape,
                    "data": tensor.ravel().tolist() if tensor.dtype == STRING else tensor.ravel(),
                }
                for name, tensor in to_tensors(specs, inputs).items()
            ],
        },
        option=orjson.OPT_SERIALIZE_NUMPY,
    )


def read_response(body: bytes, request_id: str, count: int) -> list[Any]:
    """The predictions for `count` examples.

    Raises BackendFailedError unless the answer is whole: an answer to this request, outputs by
    different names, each with one value of the shape it says for each example.
    """
    document = _read_object(body)
    if document.get("id", request_id) not in (request_id, None):
        raise BackendFailedError("the model server answered another request")
    outputs = document.get("outputs")
    if not isinstance(outputs, list) or not outputs:
        raise BackendFailedError(f"the model server answered without outputs: {excerpt(body)}")
    named: dict[str, list[Any]] = {}
    for output in outputs:
        name = output.get("name") if isinstance(output, dict) else None
        if not isinstance(name, str) or name in named:
            raise BackendFailedError("the model server answered outputs without a name each of their own")
        try:
            named[name] = _read_values(output, count)
        except (ValueError, TypeError) as error:
            raise BackendFailedError(f"output {name!r} of the model server {error}") from None
    return to_predictions(named)


def read_metadata(body: bytes, input_schema: JsonObject) -> list[TensorSpec]:
    """The model's inputs as its server describes them, and where it does not, as the schema does.

    Raises ArtifactError when neither tells an input's type.
    """
    try:
        described = _read_object(body).get("inputs")
    except BackendFailedError:
        described = None
    if not isinstance(described, list) or not described:
        return read_schema(input_schema)
    try:
        return [_read_spec(tensor) for tensor in described]
    except (KeyError, TypeError, ValueError):
        raise ArtifactError(f"the model server's metadata cannot be read: {excerpt(body)}") from None


def read_schema(input_schema: JsonObject) -> list[TensorSpec]:
    """The model's inputs by the properties of the version's input schema, with all sizes open.

    Integers become INT64 and numbers FP64. Raises ArtifactError when a property has no plain type.
    """
    properties = input_schema.get("properties")
    if not properties:
        raise ArtifactError(
            "the model server does not describe its inputs, and input_schema has no properties"
        )
    return [_spec_of_schema(name, schema) for name, schema in properties.items()]


def excerpt(body: bytes) -> str:
    """What a server says in a few words: its `error` or `detail`, else how its answer begins."""
    text: Any = body[: 4 * _EXCERPT_CHARACTERS].decode(errors="replace")
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        document = None
    if isinstance(document, dict):
        text = document.get("error") or document.get("detail") or text
    return "".join(filter(str.isprintable, str(text)))[:_EXCERPT_CHARACTERS]


def _read_object(body: bytes) -> JsonObject:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        document = None
    if not isinstance(document, dict):
        raise BackendFailedError(f"the model server answered no JSON object: {excerpt(body)}")
    return document


def _spec_of_schema(name: str, schema: Any) -> TensorSpec:
    rank = 0
    while isinstance(schema, dict) and schema.get("type") == "array":
        schema, rank = schema.get("items"), rank + 1
    kind = schema.get("type") if isinstance(schema, dict) else None
    if not isinstance(kind, str) or kind not in _SCHEMA_DTYPES:
        raise ArtifactError(
            f"the model server does not describe its inputs, and input_schema has no type for {name!r}"
        )
    return TensorSpec(name, _SCHEMA_DTYPES[kind], (None,) * rank)


def _read_spec(tensor: JsonObject) -> TensorSpec:
    name, shape = tensor["name"], tensor["shape"]
    sizes = tuple(int(size) if size >= 0 else None for size in shape[1:])
    return TensorSpec(name, _DTYPES[tensor["datatype"]], sizes)


def _read_values(output: JsonObject, count: int) -> list[Any]:
    """An output's value for each example; raises ValueError or TypeError that goes on from its name."""
    shape, values, datatype = output.get("shape"), output.get("data"), output.get("datatype")
    if not isinstance(shape, list) or not isinstance(values, list) or not all(type(n) is int for n in shape):
        raise ValueError("has no shape or no data")
    if shape[:1] != [count]:
        raise ValueError(f"has shape {shape}; its first dimension must be {count}, the batch")
    if min(shape) < 0:
        raise ValueError(f"has shape {shape}")
    for size in shape[1:]:
        if not values or type(values[0]) is not list:
            break
        if set(map(type, values)) != {list} or set(map(len, values)) != {size}:
            raise ValueError(f"has data that is not of its shape {shape}")
        values = list(chain.from_iterable(values))
    if len(values) != math.prod(shape):
        raise ValueError(f"has {len(values)} values, which is not its shape {shape}")
    allowed = {"BOOL": frozenset({bool}), "BYTES": frozenset({str})}.get(str(datatype), _NUMBER_TYPES)
    if not allowed.issuperset(map(type, values)):
        raise ValueError(f"has data that is not {datatype}")
    return _nest(values, shape)


def _nest(values: list[Any], shape: list[int]) -> list[Any]:
    for axis in range(len(shape) - 1, 0, -1):
        size, rows = shape[axis], math.prod(shape[:axis])
        if rows > max(len(values), shape[0]):
            # Only sizes of 0 lead here: many lists of nothing, from an answer of a few bytes.
            raise ValueError(f"has shape {shape}")
        values = [values[row * size : (row + 1) * size] for row in range(rows)]
    return values
