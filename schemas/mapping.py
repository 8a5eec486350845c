"""PURE. Declared tensors of a version: how the JSON of an input becomes tensors.

A declared tensor is a JSON Schema of one example's value. So the registration of a version can validate its
example without calling a model server.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Self

from pydantic import Field, StringConstraints, model_validator

from schemas.bounds import few
from schemas.events import JsonObject, WireModel

TensorName = Annotated[str, StringConstraints(min_length=1, max_length=256)]
# Of MLServer's codecs.
ContentType = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/+-]{0,63}$")]
# -1 is any size, as in the metadata of model servers.
Size = Annotated[int, Field(ge=-1)]


class Datatype(StrEnum):
    """Element types by their names in the Open Inference Protocol."""

    BOOL = "BOOL"
    BYTES = "BYTES"
    FP16 = "FP16"
    FP32 = "FP32"
    FP64 = "FP64"
    INT8 = "INT8"
    INT16 = "INT16"
    INT32 = "INT32"
    INT64 = "INT64"
    UINT8 = "UINT8"
    UINT16 = "UINT16"
    UINT32 = "UINT32"
    UINT64 = "UINT64"


class NullValue(StrEnum):
    """What a null in a tensor's value becomes."""

    NAN = "nan"


class TensorMapping(WireModel):
    """The tensor that the value at one key of `input` becomes."""

    tensor: TensorName | None = Field(
        default=None, description="The tensor's name in the model; absent = the key."
    )
    datatype: Annotated[Datatype, Field(strict=False)] = Field(description="The type of its elements.")
    shape: Annotated[tuple[Size, ...], Field(strict=False, max_length=8)] = Field(
        default=(), description="Shape of one example, without the batch dimension; -1 = any size."
    )
    null: Annotated[NullValue, Field(strict=False)] | None = Field(
        default=None,
        description="`nan`: a null is a missing value, NaN, in a tensor of floating-point numbers; absent = null is refused.",
    )

    content_type: ContentType | None = Field(
        default=None,
        description="`open-inference` only: `parameters.content_type` of the tensor, as MLServer reads it: `str`, `base64`.",
    )
    is_base64: bool = Field(
        default=False,
        description="`tensorflow` only: the strings are base64, and are sent as bytes, such as those of an image.",
    )

    @model_validator(mode="after")
    def _base64_is_text(self) -> Self:
        if self.is_base64 and self.datatype is not Datatype.BYTES:
            raise ValueError("is_base64 needs the datatype BYTES")
        return self

    @model_validator(mode="after")
    def _numbers_can_be_nan(self) -> Self:
        if self.null is not None and not is_float(self.datatype):
            raise ValueError(f"{self.datatype} has no NaN; null needs the datatype FP16, FP32 or FP64")
        return self


MAX_TENSORS = 1000


class Mapping(WireModel):
    """The declared tensors of a version; without a mapping, the model's own tensors by their names."""

    inputs: Annotated[dict[str, TensorMapping], Field(max_length=MAX_TENSORS), few(MAX_TENSORS)] = Field(
        default={},
        description="Tensors by key of `input`; other keys are not sent. Empty = the model's own by their names.",
    )
    outputs: Annotated[dict[str, TensorName], Field(max_length=MAX_TENSORS), few(MAX_TENSORS)] = Field(
        default={},
        description="Outputs of the model by key of `predictions`; a single output is the prediction itself. "
        "Empty = all outputs by their names.",
    )

    @model_validator(mode="after")
    def _names_a_tensor(self) -> Self:
        if not self.inputs and not self.outputs:
            raise ValueError("the mapping names no tensor; give it inputs or outputs, or leave it out")
        return self


def schema_of(mapping: Mapping) -> JsonObject:
    """The JSON Schema of inputs that fit the declared tensors; it accepts any input when none is declared."""
    if not mapping.inputs:
        return {}
    return {
        "type": "object",
        "required": list(mapping.inputs),
        "properties": {
            key: value_schema(tensor.datatype, tensor.shape, nullable=tensor.null is not None)
            for key, tensor in mapping.inputs.items()
        },
    }


def is_float(datatype: Datatype) -> bool:
    """Whether the elements are floating-point numbers."""
    return datatype.startswith("FP")


def value_schema(
    datatype: Datatype, shape: Sequence[int], *, bounded: bool = True, nullable: bool = False
) -> JsonObject:
    """The JSON Schema of one example's value for a tensor.

    `shape` has no batch dimension; -1 is any size. A `bounded` schema has the minimum and maximum of the integer
    type: inputs need them, predictions do not. In a `nullable` one each element may be null.
    """
    schema = _element_schema(datatype, bounded=bounded)
    if nullable:
        schema |= {"type": [schema["type"], "null"]}
    for size in reversed(shape):
        schema = {"type": "array", "items": schema}
        if size >= 0:
            schema |= {"minItems": size, "maxItems": size}
    return schema


def _element_schema(datatype: Datatype, *, bounded: bool) -> JsonObject:
    if datatype is Datatype.BOOL:
        return {"type": "boolean"}
    if datatype is Datatype.BYTES:
        return {"type": "string"}
    if is_float(datatype):
        return {"type": "number"}
    if not bounded:
        return {"type": "integer"}
    bits = int(datatype.removeprefix("U").removeprefix("INT"))
    if datatype.startswith("U"):
        return {"type": "integer", "minimum": 0, "maximum": 2**bits - 1}
    return {"type": "integer", "minimum": -(2 ** (bits - 1)), "maximum": 2 ** (bits - 1) - 1}
