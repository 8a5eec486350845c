"""PURE. Find where a registration contradicts its model, above all inputs that only its schema accepts.

A request that the schema accepts and the model refuses is answered BACKEND_ERROR and becomes a dead letter;
INVALID_INPUT would have named the fault. Schemas can state a rule in many ways, so they are tested, not read:
start from an input that fits both, change one thing at a time, and validate the changed input.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from schemas.events import JsonObject
from schemas.json_schema import Validator, compile_schema, type_errors
from schemas.mapping import Mapping
from streams.checking.samples import sample_of
from workers.backends.description import ModelDescription
from workers.backends.tensors import Shape

_INT64 = range(-(2**63), 2**63)
_OTHER_TYPES = {"number": "text", "integer": "text", "boolean": "text", "string": 0}


def contradictions(needed: JsonObject, accepts: Validator, base: JsonObject | None) -> list[str]:
    """A sentence for each key of the input where the schema accepts values that the model cannot take.

    `needed` is the JSON Schema of the model's own inputs. `base` is an input that fits both schemas, or None
    when no such input is known; then nothing is found.
    """
    if base is None or not accepts.is_valid(base) or not compile_schema(needed).is_valid(base):
        return []
    sentences = []
    for key, tensor in needed["properties"].items():
        if key in needed["required"] and accepts.is_valid(
            {name: value for name, value in base.items() if name != key}
        ):
            sentences.append(
                f"input_schema does not require {key!r}, which the model needs; add it to `required`"
            )
        if key not in base:
            continue
        fits = compile_schema(tensor)
        found = dict.fromkeys(
            what
            for what, wrong in _changes(tensor, base[key])
            if not fits.is_valid(wrong) and accepts.is_valid(base | {key: wrong})
        )
        if found:
            sentences.append(
                f"input_schema lets through {', '.join(found)} at {key!r}, which the model cannot take; "
                "such requests are answered BACKEND_ERROR"
            )
    return sentences


def misfits(name: str, declared: JsonObject, validator: Validator) -> list[str]:
    """A sentence for each place where the schema of this name demands another type than the model declares.

    For versions without a usable example: it validates one sample value of the declared schema.
    """
    value = sample_of(declared)
    return [
        f"{name} does not fit what the model declares, at {detail.path or 'its root'}: {detail.message}"
        for detail in ([] if value is None else type_errors(validator, value))
    ]


def misnamed(mapping: Mapping, described: ModelDescription) -> list[str]:
    """A sentence for each difference between a mapping and the tensors that the server declares."""
    mapped = {tensor.tensor or key: (key, tensor) for key, tensor in mapping.inputs.items()}
    sentences = []
    for own in described.inputs:
        key, tensor = mapped.pop(own.name, (own.key, None))
        if tensor is None:
            if own.optional:
                continue
            sentences.append(f"the mapping leaves out the input {own.name!r} that the model declares")
        elif tensor.datatype is not own.datatype:
            sentences.append(
                f"the mapping of {key!r} is {tensor.datatype}, and the model declares {own.datatype}"
            )
        elif own.shape is not None and not _is_within(tensor.shape, own.shape):
            sentences.append(
                f"the mapping of {key!r} has shape {_shown(tensor.shape)}, and the model declares "
                f"{_shown(own.shape)} for one example"
            )
    return [
        *sentences,
        *(
            f"the mapping of {key!r} names {name!r}, which the model does not declare"
            for name, (key, _) in mapped.items()
        ),
    ]


def left_out(described: ModelDescription) -> list[str]:
    """A sentence for each output that predictions lack although no mapping chose others."""
    return [
        f"output {name!r} has no value for each example, and predictions lack it; name the outputs that you want in "
        "mapping.outputs"
        for name in described.left_out
    ]


def _is_within(shape: Sequence[int], declared: Shape) -> bool:
    return len(shape) == len(declared) and all(
        size in (None, given) for size, given in zip(declared, shape, strict=True)
    )


def _shown(shape: Sequence[int | None]) -> list[int]:
    return [-1 if size is None else size for size in shape]


def _changes(tensor: JsonObject, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield wrong values for a tensor, each with its description, made from a right value."""
    yield "null", None
    kind = tensor.get("type")
    if isinstance(kind, list):
        # A number or null.
        kind = kind[0]
    if kind == "array":
        yield from _changes_of_list(tensor, value)
        return
    yield "a list", [value]
    if kind not in _OTHER_TYPES:
        return
    other = _OTHER_TYPES[kind]
    yield ("a number" if other == 0 else "a string"), other
    if kind == "integer":
        yield "fractions", value + 0.5
        yield "fractions", value - 0.5
        # Values beyond 64 bits are rare; a schema needs no bound for them.
        if tensor["minimum"] - 1 in _INT64:
            yield f"integers below {tensor['minimum']}", tensor["minimum"] - 1
        if tensor["maximum"] + 1 in _INT64:
            yield f"integers above {tensor['maximum']}", tensor["maximum"] + 1


def _changes_of_list(tensor: JsonObject, value: list[Any]) -> Iterator[tuple[str, Any]]:
    yield "a value that is no list", value[0] if value else 0
    if "minItems" in tensor:
        yield "a list of another length", value[:-1]
        yield "a list of another length", [*value, *value[-1:]]
    if value:
        for what, wrong in _changes(tensor["items"], value[0]):
            yield f"{what} in the list", [wrong, *value[1:]]
