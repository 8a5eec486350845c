"""Backends of model servers for tests, made like the loader's but with other limits."""

from collections.abc import Mapping, Sequence
from typing import Any

from schemas.events import JsonObject
from schemas.models import RequestForm
from workers.backends.model_server import CALLS_IN_FLIGHT, MAX_RESPONSE_BYTES, ModelServer
from workers.backends.open_inference import OpenInferenceBackend
from workers.backends.tensorflow import TensorflowBackend
from workers.backends.torchserve import FAULTS, TorchServeBackend
from workers.network.endpoints import Outbound

_OPEN: list[ModelServer] = []


def model_server(
    url: str,
    *,
    hosts: Sequence[str] = (),
    calls_in_flight: int = CALLS_IN_FLIGHT,
    max_response_bytes: int = MAX_RESPONSE_BYTES,
    **options: Any,
) -> ModelServer:
    """A model server at an endpoint that `hosts` allow."""
    return closed_later(
        ModelServer(
            url,
            Outbound(hosts),
            calls_in_flight=calls_in_flight,
            max_response_bytes=max_response_bytes,
            **options,
        )
    )


def closed_later(server: ModelServer) -> ModelServer:
    """The server, which `close_model_servers` will close."""
    _OPEN.append(server)
    return server


def with_idle_connections() -> list[str]:
    """The URLs of the model servers made since the last `close_model_servers` that keep a connection open."""
    return [server.url for server in _OPEN if server._idle]


async def close_model_servers() -> None:
    """Close the model servers made since the last call."""
    while _OPEN:
        await _OPEN.pop().close()


def open_inference(
    url: str, input_schema: JsonObject | None = None, **server_options: Any
) -> OpenInferenceBackend:
    """The backend of a model at this URL."""
    return OpenInferenceBackend(model_server(url, **server_options), input_schema or {})


def tensorflow(
    url: str,
    form: RequestForm = RequestForm.ROW,
    *,
    options: Mapping[str, Any] | None = None,
    **server_options: Any,
) -> TensorflowBackend:
    """The backend of a model at this URL; `options` are its own."""
    return TensorflowBackend(model_server(url, **server_options), form=form, **(options or {}))


def torchserve(url: str, example: JsonObject | None = None, **server_options: Any) -> TorchServeBackend:
    """The backend of a model at this URL."""
    return TorchServeBackend(model_server(url, faults=FAULTS, **server_options), example=example)
