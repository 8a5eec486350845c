"""PURE. The JSON Schemas of an ONNX model, refined by its MLflow signature.

The ONNX file determines keys and types, because predictions use it. The signature adds open sizes, and
the names and order of the columns that form one vector. A side of the signature (inputs or outputs) that
does not match the file is ignored, with a note.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from schemas.events import JsonObject
from schemas.mapping import Datatype, is_float
from workers.artifacts.mlmodel import MlModel
from workers.backends.description import DescribedTensor, ModelDescription
from workers.backends.tensors import Shape


class _Kind(StrEnum):
    """Kinds of types; a signature's type matches a tensor of the same kind."""

    BOOLEAN = "boolean"
    NUMBER = "number"
    STRING = "string"


_COLUMN_KINDS = {
    "boolean": _Kind.BOOLEAN,
    **dict.fromkeys(("integer", "long", "float", "double"), _Kind.NUMBER),
    "string": _Kind.STRING,
}
_WHOLE = frozenset({"integer", "long"})
_SHOWN = 8


@dataclass(frozen=True, slots=True)
class Schemas:
    """A version's schemas, and notes on the ignored parts of the signature."""

    input_schema: JsonObject
    output_schema: JsonObject
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Declared:
    """A tensor or column of a signature; `shape` is that of one example, which is one row."""

    name: str | None
    kind: _Kind
    shape: Shape
    is_column: bool
    is_whole: bool
    is_optional: bool = False


def schemas_of(model: ModelDescription, mlmodel: MlModel) -> Schemas:
    """The schemas of a model by its own description and its signature, either side of which may be missing."""
    notes: list[str] = []
    inputs = _refined("inputs", model.inputs, mlmodel.inputs, notes)
    outputs = _refined("outputs", model.outputs, mlmodel.outputs, notes)
    refined = ModelDescription(inputs, outputs)
    input_schema = refined.input_schema()
    columns = _columns_of_a_vector(inputs, mlmodel.inputs)
    if columns is not None:
        input_schema["properties"][inputs[0].key] |= columns
    notes += _notes_on_missing(inputs, mlmodel)
    return Schemas(input_schema, refined.output_schema(), tuple(notes))


def _notes_on_missing(inputs: Sequence[DescribedTensor], mlmodel: MlModel) -> Iterable[str]:
    """What MLflow lets a caller leave out or add, and this version does not."""
    by_name = {tensor.name: tensor for tensor in inputs}
    for column in _read(mlmodel.inputs or ()) or ():
        tensor = by_name.get(str(column.name), inputs[0] if len(inputs) == 1 else None)
        if column.is_optional and tensor is not None and not tensor.optional:
            yield (
                f"the column {column.name} is optional in MLflow; here null stands for a missing value"
                if tensor.takes_null
                else f"the column {column.name} is optional in MLflow and required here, since {tensor.datatype} has "
                "no missing value"
            )
    if mlmodel.params:
        yield f"the signature's params ({', '.join(mlmodel.params)}) are left out: an ONNX file has none"


def _refined(
    side: str,
    tensors: Sequence[DescribedTensor],
    written: Sequence[JsonObject] | None,
    notes: list[str],
) -> Sequence[DescribedTensor]:
    if written is None:
        notes.append(f"the model has no signature of its {side}; their schema is what the ONNX file declares")
        return tensors
    declared = _read(written)
    if declared is None:
        unknown = _names(
            f"{each.get('name') or 'unnamed'}: {each.get('type')}"
            for each in written
            if _read([each]) is None
        )
        notes.append(
            f"the signature's {side} have types that no tensor has ({unknown}); their schema is what the ONNX file "
            "declares"
        )
        return tensors
    refined = _fitted(tensors, declared)
    if refined is None:
        notes.append(
            f"the signature's {side} ({_names(each.get('name') for each in written)}) are not those of the ONNX "
            f"file ({_names(tensor.key for tensor in tensors)}); their schema is what the file declares"
        )
        return tensors
    return refined


def _fitted(
    tensors: Sequence[DescribedTensor], declared: Sequence[_Declared]
) -> Sequence[DescribedTensor] | None:
    """The tensors with the sizes of the signature; None when they do not match it."""
    by_name = {each.name: each for each in declared}
    if len(tensors) == 1 and len(declared) == 1:
        pairs = [(tensors[0], declared[0])]
    elif len(tensors) == 1 and all(each.is_column for each in declared):
        vector = _vector(declared)
        pairs = [(tensors[0], vector)] if vector is not None else []
    else:
        pairs = [(tensor, by_name[tensor.name]) for tensor in tensors if tensor.name in by_name]
    refined = [_with_sizes(*pair) for pair in pairs]
    fitting = [tensor for tensor in refined if tensor is not None]
    return fitting if len(fitting) == len(tensors) else None


def _vector(columns: Sequence[_Declared]) -> _Declared | None:
    """The columns of a row as one vector; None unless they are single values of one kind."""
    kinds = {column.kind for column in columns}
    if len(kinds) > 1 or any(column.shape for column in columns):
        return None
    return _Declared(None, kinds.pop(), (len(columns),), is_column=False, is_whole=False)


def _columns_of_a_vector(
    tensors: Sequence[DescribedTensor], written: Sequence[JsonObject] | None
) -> JsonObject | None:
    """The schema keywords of a single input that consists of columns: one element for each, with its name."""
    declared = _read(written or ())
    if not declared or len(tensors) != 1 or len(declared) == 1 or tensors[0].shape != (len(declared),):
        return None
    if not all(each.is_column for each in declared) or _vector(declared) is None:
        return None
    element = replace(tensors[0], shape=()).schema(bounded=True)
    is_of_floats = is_float(tensors[0].datatype)
    return {
        "prefixItems": [
            {
                **({"title": column.name} if column.name else {}),
                **(_whole(column, tensors[0]) if column.is_whole and is_of_floats else element),
            }
            for column in declared
        ]
    }


def _whole(column: _Declared, tensor: DescribedTensor) -> JsonObject:
    """The schema of a column of whole numbers in a vector of floats; in MLflow only an optional one may be missing."""
    return {"type": ["integer", "null"] if column.is_optional and tensor.takes_null else "integer"}


def _with_sizes(tensor: DescribedTensor, declared: _Declared) -> DescribedTensor | None:
    if _kind(tensor.datatype) is not declared.kind:
        return None
    if tensor.shape is None:
        return replace(tensor, shape=declared.shape)
    shape = declared.shape
    if declared.is_column and shape == () and len(tensor.shape) == 1:
        # A column of single values, for an input of shape [1].
        shape = (1,)
    if len(shape) != len(tensor.shape):
        return None
    sizes = [(own, other) for own, other in zip(tensor.shape, shape, strict=True)]
    if any(None not in pair and pair[0] != pair[1] for pair in sizes):
        return None
    return replace(tensor, shape=tuple(other if own is None else own for own, other in sizes))


def _read(written: Iterable[JsonObject]) -> list[_Declared] | None:
    """The tensors or columns of one side; None when a type has no tensor equivalent."""
    declared = [(_tensor if each.get("type") == "tensor" else _column)(each) for each in written]
    known = [each for each in declared if each is not None]
    return known if len(known) == len(declared) else None


def _tensor(written: JsonObject) -> _Declared | None:
    spec = written.get("tensor-spec")
    if not isinstance(spec, dict):
        return None
    dtype, shape = spec.get("dtype"), spec.get("shape")
    if not isinstance(dtype, str) or not isinstance(shape, list) or not shape:
        return None
    if not all(type(size) is int for size in shape):
        return None
    kind = _kind_of_numpy(dtype)
    if kind is None:
        return None
    sizes = tuple(size if size >= 0 else None for size in shape[1:])
    return _Declared(_name(written), kind, sizes, is_column=False, is_whole=False)


def _column(written: JsonObject) -> _Declared | None:
    element = written
    shape: Shape = ()
    while element.get("type") == "array" and isinstance(element.get("items"), dict):
        element, shape = element["items"], (*shape, None)
    kind = _COLUMN_KINDS.get(str(element.get("type")))
    if kind is None:
        return None
    return _Declared(
        _name(written),
        kind,
        shape,
        is_column=True,
        is_whole=element["type"] in _WHOLE,
        is_optional=written.get("required") is False,
    )


def _name(written: JsonObject) -> str | None:
    name = written.get("name")
    return name if isinstance(name, str) else None


def _kind_of_numpy(dtype: str) -> _Kind | None:
    if dtype == "bool":
        return _Kind.BOOLEAN
    if dtype.startswith(("float", "int", "uint")):
        return _Kind.NUMBER
    if dtype in ("object", "str", "bytes"):
        return _Kind.STRING
    return None


def _kind(datatype: Datatype) -> _Kind:
    if datatype is Datatype.BOOL:
        return _Kind.BOOLEAN
    return _Kind.STRING if datatype is Datatype.BYTES else _Kind.NUMBER


def _names(names: Iterable[Any]) -> str:
    listed = ["unnamed" if name is None else str(name) for name in names]
    return ", ".join(listed[:_SHOWN]) + (", …" if len(listed) > _SHOWN else "")
