"""A model of a running server as a backend sees it, whichever server and protocol it is."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from schemas.events import JsonObject
from tests.servers.kinds import KINDS
from tests.servers.launching import Api, ModelServerProcess
from tests.servers.models.toys import recommend
from workers.backends.model_server import CALLS_IN_FLIGHT, ModelServer
from workers.backends.open_inference import OpenInferenceBackend
from workers.backends.port import Backend
from workers.backends.tensorflow import TensorflowBackend
from workers.backends.torchserve import FAULTS, TorchServeBackend
from workers.network.endpoints import Outbound

# As a version has one, in which the server's metadata counts for more.
_INPUT_SCHEMA: JsonObject = {"properties": {"x": {"type": "integer"}}}


@dataclass(frozen=True)
class Way:
    """A protocol of a kind of server."""

    kind: type[ModelServerProcess]
    api: Api

    def __str__(self) -> str:
        return f"{self.kind.requirements}-{self.api}"


WAYS = [Way(kind, api) for kind in KINDS for api in kind.apis]


@dataclass(frozen=True)
class Served:
    """A running server and the backends made for it, which `close` closes."""

    server: ModelServerProcess
    api: Api
    _made: list[Backend] = field(default_factory=list)

    def backend(
        self, model: str = "doubler", version: str | None = None, *, calls_in_flight: int = CALLS_IN_FLIGHT
    ) -> Backend:
        """A backend that is not warmed up yet."""
        made = self._make(model, self.server.model_url(self.api, model, version), calls_in_flight)
        self._made.append(made)
        return made

    async def warm_backend(self, model: str = "doubler", version: str | None = None) -> Backend:
        made = self.backend(model, version)
        await made.warm()
        return made

    async def close(self) -> None:
        for backend in self._made:
            await backend.close()

    def example(self, number: int) -> JsonObject:
        """The doubler's input."""
        return {"x": self._bare(number)}

    def examples(self, numbers: Sequence[int]) -> list[JsonObject]:
        return [self.example(number) for number in numbers]

    def doubled(self, numbers: Sequence[int]) -> list[Any]:
        """The doubler's predictions."""
        return [self._bare(2 * number) for number in numbers]

    def users(self, users: Sequence[int]) -> list[JsonObject]:
        """The recommender's inputs."""
        return [{"user_idx": self._bare(user)} for user in users]

    def recommended(self, users: Sequence[int]) -> list[Any]:
        """The recommender's predictions."""
        return [{"items": items, "scores": scores} for items, scores in zip(*recommend(users), strict=True)]

    def _make(self, model: str, url: str, calls_in_flight: int) -> Backend:
        if self.api is Api.OPEN_INFERENCE:
            server = ModelServer(url, Outbound(), calls_in_flight=calls_in_flight)
            return OpenInferenceBackend(server, _INPUT_SCHEMA)
        if self.api is Api.TENSORFLOW:
            return TensorflowBackend(ModelServer(url, Outbound(), calls_in_flight=calls_in_flight))
        server = ModelServer(url, Outbound(), calls_in_flight=calls_in_flight, faults=FAULTS)
        return TorchServeBackend(server, example=self.example(1) if model != "recommender" else None)

    def _bare(self, value: Any) -> Any:
        return [value] if self.server.lists_of_one else value
