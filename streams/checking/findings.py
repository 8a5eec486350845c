"""The findings of `check` about a version, up to the step that it reached."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from schemas.events import JsonObject
from streams.checking.call_latency import Latency
from workers.backends.description import DescribedTensor, ModelDescription

NOT_LOADED = "NOT_LOADED"
WRONG_PREDICTIONS = "WRONG_PREDICTIONS"
UNAVAILABLE = "UNAVAILABLE"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why production would not accept the version, and what to do about it."""

    code: str
    message: str


@dataclass(slots=True)
class Findings:
    """`predictions` are those of `example`, once `predicted` is true; `unreachable` names the server without answer."""

    model_name: str
    version: str
    framework: str
    refusals: list[Refusal] = field(default_factory=list)
    unreachable: str = ""
    warnings: list[str] = field(default_factory=list)
    description: ModelDescription | None = None
    example: JsonObject | None = None
    example_made: bool = False
    predicted: bool = False
    predictions: Any = None
    latency: list[Latency] = field(default_factory=list)

    @property
    def accepted(self) -> bool:
        """Whether no step found a reason against the version."""
        return not self.refusals and not self.unreachable

    def refuse(self, code: str, message: str) -> None:
        self.refusals.append(Refusal(code, message))

    def document(self) -> JsonObject:
        """The findings as JSON; `error` is the first reason against the version, None when it is accepted."""
        problems = [*self.refusals]
        if self.unreachable:
            problems.append(Refusal(UNAVAILABLE, self.unreachable))
        described = self.description
        return {
            "model_name": self.model_name,
            "version": self.version,
            "framework": self.framework,
            "accepted": self.accepted,
            "error": asdict(problems[0]) if problems else None,
            "problems": [asdict(problem) for problem in problems],
            "warnings": self.warnings,
            "model": None
            if described is None
            else {"inputs": _tensors(described.inputs), "outputs": _tensors(described.outputs)},
            "input_schema": None if described is None else described.input_schema(),
            "output_schema": None if described is None else described.output_schema(),
            "example": None
            if self.example is None
            else {
                "input": self.example,
                "made": self.example_made,
                **({"predictions": self.predictions} if self.predicted else {}),
            },
            "latency": [asdict(latency) for latency in self.latency],
        }


def _tensors(tensors: Sequence[DescribedTensor]) -> list[JsonObject]:
    """Tensors as JSON: -1 is any size, as in a mapping; an undeclared shape is null.

    An output that is an object by class has its `classes`.
    """
    return [
        {
            "key": tensor.key,
            "tensor": tensor.name,
            "datatype": tensor.datatype,
            "shape": None
            if tensor.shape is None
            else [-1 if size is None else size for size in tensor.shape],
            **({} if tensor.classes is None else {"classes": tensor.classes}),
        }
        for tensor in tensors
    ]
