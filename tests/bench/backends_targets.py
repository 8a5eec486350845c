"""The recommender of a running model server, as a direct client asks for it and as a version names it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import orjson

from schemas.events import JsonObject
from tests.servers.launching import Api
from tests.servers.models.toys import recommend

MODEL: Final = "recommender"
_TOP: Final = 10


class RunningServer(Protocol):
    """What the benchmark needs of a model server; `tests/servers/` has real ones."""

    @property
    def lists_of_one(self) -> bool:
        """Whether an example's value is a list of one."""
        ...

    def model_url(self, api: Api, model: str) -> str:
        """The model's own URL."""
        ...

    def pause(self) -> None:
        """Hang: connections stay open, and nothing is answered."""
        ...

    def resume(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Target:
    """A protocol of a server; an example is a number, and no two numbers have the same input."""

    api: Api
    server: RunningServer

    @property
    def batch_in_a_call(self) -> bool:
        """Whether a call takes several examples; otherwise the server makes batches of calls."""
        return self.api is not Api.TORCHSERVE

    @property
    def call_url(self) -> str:
        """Where predictions are asked for."""
        suffixes = {Api.OPEN_INFERENCE: "/infer", Api.TENSORFLOW: ":predict", Api.TORCHSERVE: ""}
        return self.server.model_url(self.api, MODEL) + suffixes[self.api]

    def example(self, number: int) -> JsonObject:
        """The `input` of a request."""
        return {"user_idx": [number] if self.server.lists_of_one else number}

    def examples(self, first: int, count: int) -> list[JsonObject]:
        return [self.example(number) for number in range(first, first + count)]

    def predictions(self, number: int) -> JsonObject:
        """What is right for an example."""
        (items,), (scores,) = recommend([number])
        return {"items": items, "scores": scores}

    def write(self, examples: Sequence[JsonObject]) -> bytes:
        """The body of a call, the shortest that there is."""
        if self.api is Api.TORCHSERVE:
            (example,) = examples
            return orjson.dumps(example)
        if self.api is Api.TENSORFLOW:
            return orjson.dumps({"instances": examples})
        values = [example["user_idx"] for example in examples]
        # Data may be nested.
        shape = [len(values), 1] if self.server.lists_of_one else [len(values)]
        tensor = {"name": "user_idx", "datatype": "INT64", "shape": shape, "data": values}
        return orjson.dumps({"id": "1", "inputs": [tensor]})

    def read(self, body: bytes) -> list[Any]:
        """An answer's prediction for each example, without a look at whether it is a good one."""
        document = orjson.loads(body)
        if self.api is Api.TORCHSERVE:
            return [document]
        if self.api is Api.TENSORFLOW:
            return list(document["predictions"])
        columns = {output["name"]: _rows(output["data"]) for output in document["outputs"]}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def spec(self, version: str) -> dict[str, Any]:
        """`model` of an event `register`, with every default."""
        number = {"type": "integer", "minimum": 0}
        listed = {"type": "array", "items": number, "minItems": 1, "maxItems": 1}
        ten = {"type": "array", "minItems": _TOP, "maxItems": _TOP}
        return {
            "version": version,
            "framework": self.api,
            "endpoint": self.server.model_url(self.api, MODEL),
            "input_schema": {
                "type": "object",
                "properties": {"user_idx": listed if self.server.lists_of_one else number},
                "required": ["user_idx"],
                "additionalProperties": False,
            },
            "output_schema": {
                "type": "object",
                "properties": {
                    "items": {**ten, "items": {"type": "integer"}},
                    "scores": {**ten, "items": {"type": "number"}},
                },
                "required": ["items", "scores"],
            },
        }


def _rows(flat: list[Any]) -> list[list[Any]]:
    return [flat[start : start + _TOP] for start in range(0, len(flat), _TOP)]
