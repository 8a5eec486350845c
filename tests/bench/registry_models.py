"""`python -m tests.bench.registry_models HOST PORT`: a model server that only says what inputs its models have."""

import asyncio
import sys

import orjson

_METADATA = orjson.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}], "outputs": []})
_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(_METADATA), _METADATA)


class _Answering(asyncio.Protocol):
    """The same answer to each request; none has a body."""

    def __init__(self) -> None:
        self._head = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        *heads, self._head = (self._head + data).split(b"\r\n\r\n")
        self._transport.write(_ANSWER * len(heads))


async def _serve(host: str, port: int) -> None:
    server = await asyncio.get_running_loop().create_server(_Answering, host, port, backlog=1000)
    sys.stdout.write("serves\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1], int(sys.argv[2])))
