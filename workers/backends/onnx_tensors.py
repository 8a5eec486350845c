"""PURE. What an ONNX model declares, and what of it is served.

Only outputs that a mapping names are judged, or all where it names none. A converter may declare a fixed first dimension
for an output that grows with the batch, as LightGBM's does for labels: the run of the warm-up decides.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, Protocol

import numpy as np

from schemas.errors import ArtifactError, BackendFailedError, NonFiniteResultError
from schemas.mapping import Datatype
from schemas.mapping import Mapping as InputMapping
from workers.backends.description import DescribedTensor
from workers.backends.tensors import STRING, Shape, TensorSpec, declared, non_finite_rows, to_values

_DTYPES: dict[str, np.dtype[Any]] = {
    "tensor(float)": np.dtype("float32"),
    "tensor(double)": np.dtype("float64"),
    "tensor(float16)": np.dtype("float16"),
    "tensor(bool)": np.dtype("bool"),
    "tensor(string)": STRING,
    **{f"tensor({name})": np.dtype(name) for name in ("int8", "int16", "int32", "int64")},
    **{f"tensor({name})": np.dtype(name) for name in ("uint8", "uint16", "uint32", "uint64")},
}
# An output of the operator ZipMap: a dict by class for each example.
_MAPS = frozenset({"seq(map(int64,tensor(float)))", "seq(map(string,tensor(float)))"})
# The names of more are not listed in a schema.
_LISTED_CLASSES = 100
_OPTIONAL = "optional("
_SMALLEST_WARM_UP = 2
_BYTES_OF_CLASS = 12
_OPEN_BATCH = (
    "export the model with a dynamic first dimension: FloatTensorType([None, …]) in the initial types of skl2onnx and "
    "onnxmltools, dynamic_axes or dynamic_shapes of torch.onnx.export, [None, …] in the input signature of tf2onnx"
)


class Node(Protocol):
    """An input or output as ONNX Runtime describes it; sizes are numbers where they are fixed."""

    @property
    def name(self) -> str: ...

    @property
    def type(self) -> str: ...

    @property
    def shape(self) -> Sequence[Any]: ...


@dataclass(frozen=True, slots=True)
class Output:
    """A declared output. `fixed_size` is a first dimension that is declared as fixed, and may not be the batch.

    Without `has_batch`, which only a model for one example at a time may have, the value is the whole tensor.
    """

    described: DescribedTensor
    fixed_size: int | None = None
    has_batch: bool = True

    @property
    def name(self) -> str:
        return self.described.name

    def shown(self, shape: Sequence[int]) -> "Output":
        """As a run showed it: sizes that differ from the declaration are open."""
        declared = self.described.shape
        if declared is None or self.described.classes is not None:
            return self
        sizes = tuple(shape[1:] if self.has_batch else shape)
        if len(sizes) != len(declared):
            # CatBoost's converter declares its regressors' output as [N] and answers [N, 1].
            return replace(self, described=replace(self.described, shape=(None,) * len(sizes)))
        merged = tuple(
            size if size in (None, other) else None for size, other in zip(declared, sizes, strict=True)
        )
        return replace(self, described=replace(self.described, shape=merged))

    def with_classes(self, classes: Sequence[str]) -> "Output":
        """With the classes of its maps; a tensor has none."""
        if self.described.classes is None:
            return self
        listed = classes if len(classes) <= _LISTED_CLASSES else ()
        return replace(self, described=replace(self.described, classes=tuple(listed)))


def takes_one(nodes: Sequence[Node]) -> bool:
    """Whether the model takes one example in a run: an input has another first dimension than an open one."""
    return any(node.shape and isinstance(node.shape[0], int) for node in nodes) or not any(
        node.shape for node in nodes
    )


def read_inputs(nodes: Sequence[Node], mapping: InputMapping | None) -> list[TensorSpec]:
    """The model's inputs, by the mapping where it declares them.

    Without a declaration, null is a missing value in floating-point numbers. Raises ArtifactError for inputs that cannot
    be served, or differ from the mapping.
    """
    sizes = [node.shape[0] for node in nodes if node.shape]
    if sizes and all(isinstance(size, int) and size != 1 for size in sizes):
        raise ArtifactError(
            f"input {nodes[0].name!r} has shape {list(nodes[0].shape)}, whose first dimension is neither open nor 1; "
            f"{_OPEN_BATCH}"
        )
    own = [_spec_of_input(node) for node in nodes]
    return own if mapping is None or not mapping.inputs else _mapped(own, declared(mapping))


def read_outputs(nodes: Sequence[Node], names: Collection[str], inputs: Sequence[Node]) -> list[Output]:
    """The outputs of these names in their order, or all of the model, whose inputs are `inputs`.

    Raises ArtifactError when one is missing, or is not a tensor or a map by class.
    """
    by_name = {node.name: node for node in nodes}
    if missing := set(names) - by_name.keys():
        raise ArtifactError(
            f"the mapping has outputs that the model does not have: {', '.join(sorted(missing))}"
        )
    outputs = [_read_output(by_name[name]) for name in names or by_name]
    if not takes_one(inputs):
        return outputs
    batches = {1} | {node.shape[0] for node in inputs if node.shape and not isinstance(node.shape[0], int)}
    return [
        output
        if output.described.classes is not None or (by_name[output.name].shape or [1])[0] in batches
        else _whole(output, _sizes(by_name[output.name].shape))
        for output in outputs
    ]


def warm_up_examples(outputs: Sequence[Output]) -> int:
    """A number of examples that no output can have as its first dimension by chance."""
    fixed = {output.fixed_size for output in outputs}
    return next(size for size in count(_SMALLEST_WARM_UP) if size not in fixed)


def with_batch(
    outputs: Sequence[Output], shapes: Mapping[str, Sequence[int]] | None, examples: int, *, named: bool
) -> list[Output]:
    """The outputs that have a value for each example; the others are left out, unless the mapping has `named` them.

    `shapes` are those that a run of `examples` examples gave; None when the model refused it, which leaves the
    declaration. An output of undeclared shape is the value itself when the model takes one example, and its first
    dimension is not 1. Raises ArtifactError when nothing, or a named output, is left out.
    """
    if shapes is None:
        shapes = {
            output.name: [examples if output.fixed_size is None or named else output.fixed_size]
            for output in outputs
        }
    elif examples == 1:
        outputs = [
            _whole(output, None if shapes[output.name] else ())
            if output.described.shape is None and list(shapes[output.name][:1]) != [1]
            else output
            for output in outputs
        ]
    kept = [
        output for output in outputs if not output.has_batch or list(shapes[output.name][:1]) == [examples]
    ]
    if len(kept) < len(outputs) and (named or not kept):
        wrong = next(output.name for output in outputs if output not in kept)
        number = "1 example" if examples == 1 else f"{examples} examples"
        raise ArtifactError(
            f"output {wrong!r} has shape {list(shapes[wrong])} for {number}, and its first dimension must be the batch; "
            f"{_OPEN_BATCH}, or name other outputs in mapping.outputs"
        )
    return kept


def shape_of(answered: Any) -> list[int]:
    """The shape of an output of a run: of a tensor, or of the list of its maps."""
    return [len(answered)] if isinstance(answered, list) else list(answered.shape)


def size_bytes(answered: Any) -> int:
    """The bytes of an output of a run, about."""
    size: int = _BYTES_OF_CLASS * sum(map(len, answered)) if type(answered) is list else answered.nbytes
    return size


def classes_of(answered: Any) -> list[str]:
    """The classes of the maps of an output of a run; none for a tensor."""
    return [str(label) for label in answered[0]] if isinstance(answered, list) and answered else []


def read_values(
    name: str, answered: Any, examples: int, *, has_batch: bool = True
) -> tuple[list[Any], dict[int, NonFiniteResultError]]:
    """An output's value for each example, and the errors of those with NaN or Infinity, by index.

    Without `has_batch` the tensor is the value of the one example. The value of a map is an object by class. Raises BackendFailedError when there is no value for each example.
    """
    if type(answered) is not list:
        if not has_batch:
            answered = answered[np.newaxis]
        return to_values(name, answered, examples), non_finite_rows(name, answered)
    if len(answered) != examples:
        raise BackendFailedError(f"output {name!r} has {len(answered)} maps for {examples} examples")
    error = NonFiniteResultError(f"output {name!r} has NaN or Infinity, which JSON cannot represent")
    # Numbers of 32 bits do not overflow in the sum.
    errors = {row: error for row, each in enumerate(answered) if not math.isfinite(sum(each.values()))}
    return [{str(label): number for label, number in each.items()} for each in answered], errors


def _spec_of_input(node: Node) -> TensorSpec:
    kind = node.type
    is_optional = kind.startswith(_OPTIONAL)
    if is_optional:
        kind = kind.removeprefix(_OPTIONAL).removesuffix(")")
    dtype = _DTYPES.get(kind)
    if dtype is None:
        raise ArtifactError(f"input {node.name!r} is {node.type}; only plain tensors are served")
    first = node.shape[0] if node.shape else 0
    has_batch = first == 1 or not isinstance(first, int)
    return TensorSpec(
        node.name,
        dtype,
        _sizes(node.shape[1:] if has_batch else node.shape),
        takes_null=dtype.kind == "f",
        optional=is_optional,
        has_batch=has_batch,
    )


def _read_output(node: Node) -> Output:
    if node.type in _MAPS:
        return Output(DescribedTensor(node.name, node.name, Datatype.FP32, (), classes=()))
    dtype = _DTYPES.get(node.type)
    if dtype is None:
        raise ArtifactError(
            f"output {node.name!r} is {node.type}; only plain tensors and the maps of ZipMap are served: name other "
            "outputs in mapping.outputs"
        )
    described = DescribedTensor.of(TensorSpec(node.name, dtype, _sizes(node.shape[1:])))
    if not node.shape:
        # ONNX Runtime describes a missing declaration like a tensor without dimensions.
        return Output(replace(described, shape=None))
    return Output(described, node.shape[0] if isinstance(node.shape[0], int) else None)


def _whole(output: Output, shape: Shape | None) -> Output:
    return Output(replace(output.described, shape=shape), has_batch=False)


def _sizes(shape: Sequence[Any]) -> Shape:
    return tuple(size if isinstance(size, int) else None for size in shape)


def _mapped(own: Sequence[TensorSpec], mapped: Sequence[TensorSpec]) -> list[TensorSpec]:
    """The declared tensors; raises ArtifactError unless they are the model's inputs."""
    left = {spec.name: spec for spec in own}
    specs = []
    for spec in mapped:
        model = left.pop(spec.name, None)
        if model is None or model.dtype != spec.dtype or not _is_within(spec.shape, model.shape):
            raise ArtifactError(
                f"the mapping of {spec.key!r} matches no input of the model by name, type and shape"
            )
        specs.append(replace(spec, optional=model.optional, has_batch=model.has_batch))
    if missing := [spec.name for spec in left.values() if not spec.optional]:
        raise ArtifactError(f"the mapping has no entry for the model's input {', '.join(sorted(missing))}")
    return specs


def _is_within(shape: Shape, model: Shape) -> bool:
    return len(shape) == len(model) and all(
        size in (None, given) for size, given in zip(model, shape, strict=True)
    )
