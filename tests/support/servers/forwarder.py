"""A TCP address whose connections go to a server that the test may change, as a virtual IP or a proxy does."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


class Forwarder:
    """`target` has the port of the server that new connections go to; those that are open stay where they are."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection("127.0.0.1", self.target)
        await asyncio.gather(_copy(reader, to_server), _copy(from_server, writer))


@asynccontextmanager
async def forwarder(target: int) -> AsyncIterator[Forwarder]:
    """Forwards until the block ends."""
    made = Forwarder(target)
    server = await asyncio.start_server(made._serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
    finally:
        writer.close()
