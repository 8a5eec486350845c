"""PURE. A model's description, and its JSON Schemas by the mapping of `docs/backends.md`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from schemas.events import JsonObject
from schemas.mapping import Datatype, value_schema
from workers.backends.tensors import DTYPES, Shape, TensorSpec

_DATATYPES = {dtype: Datatype(name) for name, dtype in DTYPES.items()}


@dataclass(frozen=True, slots=True)
class DescribedTensor:
    """An input or output of a model.

    `shape` is that of one example, without the batch dimension; a size of None is open, and a shape of None
    is unknown. The value is at `key` of a request's input, or of a prediction with several outputs. With `takes_null`
    null is a missing value; an `optional` input may be missing itself. `classes` are those of an output that is an object by class, each with a number; empty when
    they are unknown, None for a tensor.
    """

    key: str
    name: str
    datatype: Datatype
    shape: Shape | None
    takes_null: bool = False
    optional: bool = False
    classes: Sequence[str] | None = None

    @classmethod
    def of(cls, spec: TensorSpec) -> "DescribedTensor":
        return cls(spec.key, spec.name, _DATATYPES[spec.dtype], spec.shape, spec.takes_null, spec.optional)

    def schema(self, *, bounded: bool) -> JsonObject:
        """The JSON Schema of one example's value; it accepts any value when the shape is unknown."""
        if self.shape is None:
            return {}
        shape = [-1 if size is None else size for size in self.shape]
        schema = value_schema(self.datatype, shape, bounded=bounded, nullable=self.takes_null)
        if self.classes is None:
            return schema
        if not self.classes:
            return {"type": "object", "additionalProperties": schema}
        properties = dict.fromkeys(self.classes, schema)
        return {"type": "object", "required": list(self.classes), "properties": properties}


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """All inputs of a model, and the outputs that its predictions consist of.

    `left_out` names outputs that no mapping chose, and that have no value for each example.
    """

    inputs: Sequence[DescribedTensor]
    outputs: Sequence[DescribedTensor]
    left_out: Sequence[str] = ()

    def input_schema(self) -> JsonObject:
        """The JSON Schema of a request's input."""
        return _object_schema(self.inputs, bounded=True)

    def output_schema(self) -> JsonObject:
        """The JSON Schema of a prediction; it accepts any value when the outputs are unknown."""
        if not self.outputs:
            return {}
        if len(self.outputs) == 1:
            return self.outputs[0].schema(bounded=False)
        return _object_schema(self.outputs, bounded=False)


def chosen(outputs: Sequence[DescribedTensor], keys: Mapping[str, str] | None) -> tuple[DescribedTensor, ...]:
    """The outputs in predictions: those of a mapping, with its keys, or all outputs without a mapping.

    Empty when a mapped output is not described.
    """
    if not keys:
        return tuple(outputs)
    described = {output.name: output for output in outputs}
    if not described.keys() >= set(keys.values()):
        return ()
    return tuple(replace(described[name], key=key) for key, name in keys.items())


def _object_schema(tensors: Sequence[DescribedTensor], *, bounded: bool) -> JsonObject:
    return {
        "type": "object",
        "required": [tensor.key for tensor in tensors if not tensor.optional],
        "properties": {tensor.key: tensor.schema(bounded=bounded) for tensor in tensors},
    }
