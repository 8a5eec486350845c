"""PURE. What a model says of itself, and the JSON Schemas that follow by the rule of `docs/backends.md`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from schemas.events import JsonObject
from schemas.mapping import Datatype, value_schema
from workers.backends.tensors import DTYPES, Shape, TensorSpec

_DATATYPES = {dtype: Datatype(name) for name, dtype in DTYPES.items()}


@dataclass(frozen=True, slots=True)
class DescribedTensor:
    """An input or output of a model.

    `shape` is that of one example, without the batch dimension, with None for any size; it is None where
    the model does not tell it. The value is at `key` of a request's input, or of a prediction where there
    are several outputs.
    """

    key: str
    name: str
    datatype: Datatype
    shape: Shape | None

    @classmethod
    def of(cls, spec: TensorSpec) -> "DescribedTensor":
        return cls(spec.key, spec.name, _DATATYPES[spec.dtype], spec.shape)

    def schema(self, *, bounded: bool) -> JsonObject:
        """The JSON Schema of one example's value: of any value where the shape is not told."""
        if self.shape is None:
            return {}
        shape = [-1 if size is None else size for size in self.shape]
        return value_schema(self.datatype, shape, bounded=bounded)


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """All inputs of a model, and those of its outputs that predictions are made of."""

    inputs: Sequence[DescribedTensor]
    outputs: Sequence[DescribedTensor]

    def input_schema(self) -> JsonObject:
        """The JSON Schema of the inputs that become the model's tensors."""
        return _object_schema(self.inputs, bounded=True)

    def output_schema(self) -> JsonObject:
        """The JSON Schema of its predictions: of any value where the outputs are not told."""
        if not self.outputs:
            return {}
        if len(self.outputs) == 1:
            return self.outputs[0].schema(bounded=False)
        return _object_schema(self.outputs, bounded=False)


def chosen(outputs: Sequence[DescribedTensor], keys: Mapping[str, str] | None) -> tuple[DescribedTensor, ...]:
    """The outputs that predictions are made of: those that a mapping names, by its keys, without one all.

    None when one of them is not described.
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
        "required": [tensor.key for tensor in tensors],
        "properties": {tensor.key: tensor.schema(bounded=bounded) for tensor in tensors},
    }
