"""An HTTP server that does what a test says, to the byte, and a model behind it."""

import asyncio
import itertools
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import orjson

_ACCEPT_TURNS = 5


@dataclass(frozen=True)
class HttpRequest:
    """What came in; `connection` counts the connections from 1."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    connection: int

    def json(self) -> Any:
        return orjson.loads(self.body)


# Writes an answer; a handler that returns False closes the connection.
Handler = Callable[[HttpRequest, asyncio.StreamWriter], Awaitable[bool | None]]


@asynccontextmanager
async def http_server(handler: Handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """The base URL of a server on a free port; `tls` may be given another certificate while it serves."""
    connections = itertools.count(1)
    serving: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: int) -> None:
        try:
            while True:
                request = await _read(reader, connection)
                if request is None or await handler(request, writer) is False:
                    return
        except (ConnectionError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(serve(reader, writer, next(connections)))
        serving[task] = writer
        task.add_done_callback(serving.pop)

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls)
    try:
        host, port = server.sockets[0].getsockname()
        yield f"{'http' if tls is None else 'https'}://{host}:{port}"
    finally:
        server.close()
        # A connection that the system has just accepted comes to `accept` after some turns of the loop.
        for _ in range(_ACCEPT_TURNS):
            await asyncio.sleep(0)
        tasks = list(serving)
        for task, writer in list(serving.items()):
            # A task that has not begun does not close its connection when it is cancelled.
            writer.transport.abort()
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _read(reader: asyncio.StreamReader, connection: int) -> HttpRequest | None:
    """None when the client closes the connection, before a request or within one."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        line, *fields = head.split("\r\n")[:-2]
        method, path, _ = line.split(" ")
        headers = {
            name.lower(): content.strip() for name, _, content in (field.partition(":") for field in fields)
        }
        body = await reader.readexactly(int(headers.get("content-length", "0")))
    except asyncio.IncompleteReadError:
        return None
    return HttpRequest(method, path, headers, body, connection)


def answer(body: Any, status: int = 200, headers: str = "") -> bytes:
    """A whole response; a body that is not bytes becomes JSON."""
    content = body if isinstance(body, bytes) else orjson.dumps(body)
    head = f"HTTP/1.1 {status} X\r\ncontent-length: {len(content)}\r\n{headers}\r\n"
    return head.encode() + content


ENDLESS_BYTES, _PART_BYTES = 1 << 30, 1 << 20


async def write_endless(writer: asyncio.StreamWriter) -> int:
    """Write a response of a gigabyte until the client closes the connection; the bytes that were written then."""
    writer.write(b"HTTP/1.1 200 X\r\ncontent-length: %d\r\n\r\n" % ENDLESS_BYTES)
    written = 0
    with suppress(ConnectionError):
        while written < ENDLESS_BYTES:
            writer.write(bytes(_PART_BYTES))
            await writer.drain()
            written += _PART_BYTES
    return written


METADATA = {
    "name": "doubler",
    "platform": "test",
    "inputs": [{"name": "x", "datatype": "INT64", "shape": [-1]}],
    "outputs": [{"name": "y", "datatype": "INT64", "shape": [-1]}],
}


def asked(request: HttpRequest) -> list[Any]:
    """The `x` of each example that predictions are asked for, in whichever protocol the path is of."""
    document = request.json()
    if request.path.endswith(":predict"):
        if "inputs" in document:
            columns: list[Any] = document["inputs"]["x"]
            return columns
        return [row["x"] if isinstance(row, dict) else row for row in document["instances"]]
    if request.path.startswith("/predictions/"):
        return [document["x"]]
    (tensor,) = document["inputs"]
    data: list[Any] = tensor["data"]
    return data


def predicted(request: HttpRequest, predictions: list[Any]) -> Any:
    """The answer with these predictions, in the protocol of the request's path."""
    document = request.json()
    if request.path.endswith(":predict"):
        return {"outputs" if "inputs" in document else "predictions": predictions}
    if request.path.startswith("/predictions/"):
        return predictions[0]
    y = {"name": "y", "datatype": "INT64", "shape": [len(predictions)], "data": predictions}
    return {"model_name": "doubler", "id": document["id"], "outputs": [y]}


def doubled(request: HttpRequest) -> Any:
    """The answer of a model that doubles its input `x`."""
    return predicted(request, [2 * x for x in asked(request)])


async def serve_doubler(request: HttpRequest, writer: asyncio.StreamWriter) -> None:
    """The doubler, at any path; above a million it never answers, and what is no number is its fault."""
    if request.method == "GET":
        writer.write(answer(METADATA))
    elif not all(type(x) is int for x in asked(request)):
        # TorchServe says so of any fault.
        status = 503 if request.path.startswith("/predictions/") else 400
        writer.write(answer({"error": "x must be a number"}, status))
    elif max(asked(request), default=0) > 1_000_000:
        await asyncio.Event().wait()
    else:
        writer.write(answer(doubled(request)))
