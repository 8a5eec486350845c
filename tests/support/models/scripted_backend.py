"""A backend of the Open Inference Protocol on a scripted server."""

from asyncio import StreamWriter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from schemas.events import JsonObject
from tests.support.models.backends import open_inference
from tests.support.servers.http_server import (
    METADATA,
    Handler,
    HttpRequest,
    answer,
    http_server,
)
from workers.backends.open_inference import OpenInferenceBackend

INPUTS: list[JsonObject] = [{"x": 1}, {"x": 2}]


@asynccontextmanager
async def served(handler: Handler, **options: Any) -> AsyncIterator[OpenInferenceBackend]:
    """A warm backend on a server whose answers to POST are the handler's."""

    async def serve(request: HttpRequest, writer: StreamWriter) -> bool | None:
        if request.method == "GET":
            writer.write(answer(METADATA))
            return None
        return await handler(request, writer)

    async with http_server(serve) as url:
        backend = open_inference(f"{url}/v2/models/doubler", **options)
        await backend.warm()
        yield backend
        await backend.close()


def answering(response: bytes | Callable[[HttpRequest], bytes]) -> Handler:
    async def handle(request: HttpRequest, writer: StreamWriter) -> None:
        writer.write(response if isinstance(response, bytes) else response(request))

    return handle


async def infer(backend: OpenInferenceBackend) -> list[Any]:
    return await backend.infer(INPUTS, timeout_seconds=30)
