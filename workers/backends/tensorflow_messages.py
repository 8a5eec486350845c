"""PURE. Messages of TensorFlow Serving's REST interface, version 1.

The forms `row` and `value` send `instances`, one for each example, and get `predictions` in the same order.
The form `column` sends `inputs`, the whole batch of each tensor, and gets `outputs`: an object by name, or
the batch itself for a single output.
"""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from math import nan
from typing import Any

from schemas.errors import BackendBrokenError, BackendFailedError
from schemas.events import JsonObject
from schemas.mapping import Datatype
from schemas.models import RequestForm
from schemas.wire import encode
from workers.backends.description import DescribedTensor, ModelDescription, chosen
from workers.backends.responses import excerpt, fail_non_json, read_object
from workers.backends.tensors import to_predictions

_DEFAULT_SIGNATURE = "serving_default"
_DATATYPES = {
    "DT_BOOL": Datatype.BOOL,
    "DT_STRING": Datatype.BYTES,
    "DT_HALF": Datatype.FP16,
    "DT_FLOAT": Datatype.FP32,
    "DT_DOUBLE": Datatype.FP64,
    **{f"DT_INT{bits}": Datatype(f"INT{bits}") for bits in (8, 16, 32, 64)},
    **{f"DT_UINT{bits}": Datatype(f"UINT{bits}") for bits in (8, 16, 32, 64)},
}


def write_request(
    form: RequestForm,
    signature_name: str | None,
    tensors: Mapping[str, str] | None,
    inputs: Sequence[JsonObject],
    *,
    nullable: Collection[str] = (),
    base64: Collection[str] = (),
) -> bytes:
    """The body of a request for predictions; raises BackendFailedError when an input does not fit.

    `tensors` are the model's input names by the keys of `input`; None when they are equal. Null in the `nullable` keys is
    written as NaN, which is no JSON, but TensorFlow Serving reads it. Strings in the `base64` keys are written as bytes.
    """
    document: JsonObject = {} if signature_name is None else {"signature_name": signature_name}
    if nullable:
        inputs = [_replaced(nullable, _nan_for_null, example) for example in inputs]
    if base64:
        inputs = [_replaced(base64, _bytes_for_base64, example) for example in inputs]
    named = inputs if tensors is None else [_renamed(tensors, example) for example in inputs]
    if form is RequestForm.ROW:
        document["instances"] = named
    elif form is RequestForm.VALUE:
        document["instances"] = [_only_value(example) for example in named]
    else:
        names = named[0].keys()
        if any(example.keys() != names for example in named):
            raise BackendFailedError("the inputs of one batch have different keys")
        document["inputs"] = {name: [example[name] for example in named] for name in names}
    return json.dumps(document).encode() if nullable else encode(document)


def read_response(body: bytes, count: int, outputs: Mapping[str, str] | None = None) -> list[Any]:
    """The predictions for `count` examples, of the chosen outputs or of all.

    A prediction with NaN or Infinity is a NonFiniteResultError. Raises BackendBrokenError unless the response has one prediction for each example.
    """
    document = read_object(body, allow_non_finite=True)
    columns = document.get("outputs")
    # The batch of a single output is a list in either form.
    rows = columns if isinstance(columns, list) else document.get("predictions")
    if isinstance(rows, list):
        predictions = [_chosen(row, outputs) for row in rows] if outputs else rows
    else:
        predictions = _read_columns(columns, count, outputs, body)
    if len(predictions) != count:
        raise BackendBrokenError(
            f"the model server answered {len(predictions)} predictions for {count} inputs"
        )
    return fail_non_json(predictions, body)


def read_status(body: bytes) -> str | None:
    """Why the model is not served yet, by the server's status; None when it is served.

    TensorFlow Serving reports the state of each version, other servers whether the model is ready.
    """
    try:
        document = read_object(body)
    except BackendBrokenError:
        return None
    versions = document.get("model_version_status")
    if isinstance(versions, list) and versions:
        states = [version.get("state") for version in versions if isinstance(version, dict)]
        return None if "AVAILABLE" in states else f"its state is {', '.join(map(str, states))}"
    return "it is not ready" if str(document.get("ready", True)).lower() == "false" else None


def read_description(
    body: bytes,
    signature_name: str | None,
    tensors: Mapping[str, str] | None,
    outputs: Mapping[str, str] | None,
) -> ModelDescription | None:
    """The signature by the server's metadata, with the keys of the version's mapping; None without metadata.

    `tensors` are the model's input names, and `outputs` its output names, by those keys.
    """
    keys = {name: key for key, name in (tensors or {}).items()}
    try:
        signatures = read_object(body)["metadata"]["signature_def"]["signature_def"]
        signature = signatures[signature_name or _DEFAULT_SIGNATURE]
        inputs = [_read_tensor(*entry) for entry in signature["inputs"].items()]
        answered = [_read_tensor(*entry) for entry in signature["outputs"].items()]
    except (BackendBrokenError, AttributeError, KeyError, TypeError, ValueError):
        return None
    mapped = tuple(replace(tensor, key=keys.get(tensor.name, tensor.name)) for tensor in inputs)
    return ModelDescription(mapped, chosen(answered, outputs)) if mapped else None


def _read_tensor(name: str, metadata: JsonObject) -> DescribedTensor:
    # Sizes are strings, as 64-bit integers are in the JSON form of Protocol Buffers.
    shape = metadata.get("tensor_shape", {})
    sizes = [int(size.get("size", 0)) for size in shape.get("dim", ())]
    # Without a batch dimension the shape of one example is unknown.
    known = tuple(size if size >= 0 else None for size in sizes[1:]) if sizes else None
    return DescribedTensor(name, name, _DATATYPES[metadata["dtype"]], known)


def _renamed(tensors: Mapping[str, str], example: JsonObject) -> JsonObject:
    try:
        return {name: example[key] for key, name in tensors.items()}
    except KeyError as error:
        raise BackendFailedError(f"the model needs an input {error}") from None


def _replaced(keys: Collection[str], replace_one: Callable[[Any], Any], example: JsonObject) -> JsonObject:
    return {key: _each(replace_one, value) if key in keys else value for key, value in example.items()}


def _each(replace_one: Callable[[Any], Any], value: Any) -> Any:
    if isinstance(value, list):
        return [_each(replace_one, element) for element in value]
    return replace_one(value)


def _nan_for_null(value: Any) -> Any:
    return nan if value is None else value


def _bytes_for_base64(value: str) -> JsonObject:
    return {"b64": value}


def _only_value(example: JsonObject) -> Any:
    if len(example) != 1:
        raise BackendFailedError(f"the model takes one value alone, and the input has {len(example)} keys")
    return next(iter(example.values()))


def _chosen(row: Any, outputs: Mapping[str, str]) -> Any:
    if not isinstance(row, dict):
        # A single output has no name in this form.
        row = dict.fromkeys(outputs.values(), row) if len(outputs) == 1 else {}
    try:
        picked = {key: row[name] for key, name in outputs.items()}
    except KeyError as error:
        raise BackendBrokenError(f"the model has no output {error}") from None
    return next(iter(picked.values())) if len(picked) == 1 else picked


def _read_columns(columns: Any, count: int, outputs: Mapping[str, str] | None, body: bytes) -> list[Any]:
    if not isinstance(columns, dict) or not columns:
        raise BackendBrokenError(f"the model server answered without predictions: {excerpt(body)}")
    for name, values in columns.items():
        if not isinstance(values, list) or len(values) != count:
            raise BackendBrokenError(
                f"output {name!r} of the model server must have one value for each input"
            )
    return to_predictions(columns, outputs)
