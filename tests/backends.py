"""Backends of model servers for tests, as the loader makes them but for their limits."""

from collections.abc import Sequence
from typing import Any

from schemas.events import JsonObject
from workers.endpoints import Outbound
from workers.model_server import CALLS_IN_FLIGHT, MAX_RESPONSE_BYTES, ModelServer
from workers.open_inference import OpenInferenceBackend


def model_server(
    url: str,
    *,
    hosts: Sequence[str] = (),
    calls_in_flight: int = CALLS_IN_FLIGHT,
    max_response_bytes: int = MAX_RESPONSE_BYTES,
    **options: Any,
) -> ModelServer:
    """A server that may be called when `hosts` allow it."""
    return ModelServer(
        url,
        Outbound(hosts),
        calls_in_flight=calls_in_flight,
        max_response_bytes=max_response_bytes,
        **options,
    )


def open_inference(
    url: str, input_schema: JsonObject | None = None, **server_options: Any
) -> OpenInferenceBackend:
    """The backend of a model at this URL."""
    return OpenInferenceBackend(model_server(url, **server_options), input_schema or {})
