"""What `check` has found out about a version, as far as it came."""

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
    """Why production would not take the version, and what to do about it."""

    code: str
    message: str


@dataclass(slots=True)
class Findings:
    """`predictions` are those for `example`, once `predicted`; `unreachable` says who did not answer."""

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
        """Whether production would take it, as far as could be seen."""
        return not self.refusals and not self.unreachable

    def refuse(self, code: str, message: str) -> None:
        self.refusals.append(Refusal(code, message))

    def document(self) -> JsonObject:
        """All of it, as JSON; `error` is the first reason against the version, None when it is accepted."""
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
    """With -1 for any size, as in a mapping; a shape that is not told is null."""
    return [
        {
            "key": tensor.key,
            "tensor": tensor.name,
            "datatype": tensor.datatype,
            "shape": None
            if tensor.shape is None
            else [-1 if size is None else size for size in tensor.shape],
        }
        for tensor in tensors
    ]
