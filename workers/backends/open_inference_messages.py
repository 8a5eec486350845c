"""PURE. Messages of the Open Inference Protocol, version 2, in JSON.

A tensor is `{"name", "datatype", "shape", "data"}` with data in row-major order: flat in requests, flat or
nested in responses. The first dimension is the batch.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from types import NoneType
from typing import Any

import numpy as np
import orjson

from schemas.errors import ArtifactError, BackendBrokenError, BackendFailedError, NonFiniteResultError
from schemas.events import JsonObject
from schemas.wire import encode
from workers.backends.description import DescribedTensor, ModelDescription, chosen
from workers.backends.responses import excerpt, fail_non_json, read_object
from workers.backends.tensors import DTYPES, STRING, TensorSpec, to_predictions, to_tensors

_DATATYPES = {dtype: datatype for datatype, dtype in DTYPES.items()}
_SCHEMA_DTYPES: dict[str, np.dtype[Any]] = {
    "boolean": np.dtype("bool"),
    "integer": np.dtype("int64"),
    "number": np.dtype("float64"),
    "string": STRING,
}
_NUMBER_TYPES = frozenset({int, float})


def write_request(
    request_id: str,
    specs: Sequence[TensorSpec],
    inputs: Sequence[JsonObject],
    outputs: Mapping[str, str] | None = None,
    content_type: str | None = None,
) -> bytes:
    """The body of a request for predictions; raises BackendFailedError when an input does not fit.

    `outputs` are the names of the requested outputs by their keys in the prediction, `content_type` is a parameter of
    the request.
    """
    types = {spec.name: _parameters(spec.content_type) for spec in specs}
    document: JsonObject = {
        "id": request_id,
        "inputs": [
            {
                "name": name,
                "datatype": _DATATYPES[tensor.dtype],
                "shape": tensor.shape,
                **types[name],
                "data": tensor.ravel().tolist() if tensor.dtype == STRING else tensor.ravel(),
            }
            for name, tensor in to_tensors(specs, inputs).items()
        ],
    }
    document |= _parameters(content_type)
    if outputs:
        document["outputs"] = [{"name": name} for name in outputs.values()]
    return encode(document, orjson.OPT_SERIALIZE_NUMPY)


def read_response(
    body: bytes, request_id: str, count: int, outputs: Mapping[str, str] | None = None
) -> list[Any]:
    """The predictions for `count` examples, of the chosen outputs or of all.

    A prediction with NaN or Infinity, or null for a number, is a NonFiniteResultError. Raises BackendBrokenError unless the response has the request's id, and outputs with distinct names,
    each with one value of its declared shape for each example.
    """
    document = read_object(body, allow_non_finite=True)
    if document.get("id", request_id) not in (request_id, None):
        raise BackendBrokenError("the model server answered another request")
    answered = document.get("outputs")
    if not isinstance(answered, list) or not answered:
        raise BackendBrokenError(f"the model server answered without outputs: {excerpt(body)}")
    named: dict[str, list[Any]] = {}
    gaps: set[int] = set()
    for output in answered:
        name = output.get("name") if isinstance(output, dict) else None
        if not isinstance(name, str) or name in named:
            raise BackendBrokenError("the model server answered outputs without distinct names")
        try:
            named[name] = _read_values(output, count, gaps)
        except (ValueError, TypeError) as error:
            raise BackendBrokenError(f"output {name!r} of the model server {error}") from None
    predictions = fail_non_json(to_predictions(named, outputs), body)
    for row in gaps:
        predictions[row] = NonFiniteResultError("an output has null for a number")
    return predictions


def read_metadata(body: bytes, input_schema: JsonObject) -> list[TensorSpec]:
    """The model's inputs by its server's metadata, or else by the input schema.

    Raises ArtifactError when neither has the type of an input.
    """
    try:
        described = read_object(body).get("inputs")
    except BackendFailedError:
        described = None
    if not isinstance(described, list) or not described:
        return read_schema(input_schema)
    try:
        return [_read_spec(tensor) for tensor in described]
    except (KeyError, TypeError, ValueError):
        raise ArtifactError(f"the model server's metadata cannot be read: {excerpt(body)}") from None


def read_description(
    body: bytes, declared: Sequence[TensorSpec], outputs: Mapping[str, str] | None = None
) -> ModelDescription | None:
    """The model by its server's metadata, with the keys of the version's mapping; None without metadata.

    `declared` are the mapping's inputs, `outputs` its outputs by key.
    """
    keys = {spec.name: spec.key for spec in declared}
    try:
        document = read_object(body)
        inputs = [DescribedTensor.of(_read_spec(tensor)) for tensor in document["inputs"]]
        answered = [DescribedTensor.of(_read_spec(tensor)) for tensor in document.get("outputs") or ()]
        mapped = tuple(replace(tensor, key=keys.get(tensor.name, tensor.name)) for tensor in inputs)
        return ModelDescription(mapped, chosen(answered, outputs)) if mapped else None
    except (BackendFailedError, KeyError, TypeError, ValueError):
        return None


def read_schema(input_schema: JsonObject) -> list[TensorSpec]:
    """The model's inputs by the properties of the version's input schema, with open sizes.

    Integers become INT64 and numbers FP64. Raises ArtifactError for a property without a plain type.
    """
    properties = input_schema.get("properties")
    if not properties:
        raise ArtifactError(
            "the model server does not describe its inputs, and input_schema has no properties"
        )
    return [_spec_of_schema(name, schema) for name, schema in properties.items()]


def _parameters(content_type: str | None) -> JsonObject:
    return {} if content_type is None else {"parameters": {"content_type": content_type}}


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
    return TensorSpec(name, DTYPES[tensor["datatype"]], sizes)


def _read_values(output: JsonObject, count: int, gaps: set[int]) -> list[Any]:
    """An output's value for each example; raises ValueError or TypeError whose message follows its name.

    Adds the examples to `gaps` that have null for a floating-point number, as some servers write NaN.
    """
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
            raise ValueError(f"has data that does not match its shape {shape}")
        values = list(chain.from_iterable(values))
    if len(values) != math.prod(shape):
        raise ValueError(f"has {len(values)} values, which does not match its shape {shape}")
    allowed = {"BOOL": frozenset({bool}), "BYTES": frozenset({str})}.get(str(datatype), _NUMBER_TYPES)
    types = set(map(type, values))
    if NoneType in types and str(datatype).startswith("FP"):
        size = len(values) // count
        gaps.update(at // size for at, value in enumerate(values) if value is None)
        types.discard(NoneType)
    if not types <= allowed:
        raise ValueError(f"has data that is not {datatype}")
    return _nest(values, shape)


def _nest(values: list[Any], shape: list[int]) -> list[Any]:
    for axis in range(len(shape) - 1, 0, -1):
        size, rows = shape[axis], math.prod(shape[:axis])
        if rows > max(len(values), shape[0]):
            # Only with sizes of 0: a response of a few bytes could demand millions of empty lists.
            raise ValueError(f"has shape {shape}")
        values = [values[row * size : (row + 1) * size] for row in range(rows)]
    return values
