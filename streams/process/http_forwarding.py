"""Forwards HTTP requests to another process of this machine, which serves on a Unix socket."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from http import HTTPStatus

import httpx
from aiohttp import web

CONNECT_TIMEOUT_SECONDS = 5.0
# The live page sends an event each few seconds, and waits as long for a promotion.
READ_TIMEOUT_SECONDS = 30.0

# They concern one connection (RFC 9110, section 7.6.1). The length of a body is that of the message that is sent on.
_OF_ONE_CONNECTION = frozenset(
    {
        *("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection"),
        *("te", "trailer", "transfer-encoding", "upgrade", "content-length"),
    }
)


def client_on(socket: str, *, read_timeout_seconds: float = READ_TIMEOUT_SECONDS) -> httpx.AsyncClient:
    """An HTTP client on a Unix socket."""
    return httpx.AsyncClient(
        transport=httpx.AsyncHTTPTransport(uds=socket),
        base_url="http://process",
        timeout=httpx.Timeout(CONNECT_TIMEOUT_SECONDS, read=read_timeout_seconds),
    )


async def forwarded(request: web.Request, socket: str) -> web.StreamResponse:
    """The answer of the process on `socket`, passed on as it comes; 503 when it does not answer."""
    async with client_on(socket) as client:
        # The client's own headers would ask for a compressed answer.
        client.headers.clear()
        try:
            async with client.stream(
                request.method,
                request.raw_path,
                headers=_passed_on(request.headers),
                content=await request.read(),
            ) as answer:
                response = web.StreamResponse(
                    status=answer.status_code, headers=dict(_passed_on(answer.headers))
                )
                await response.prepare(request)
                if request.method != "HEAD":
                    # The browser closed the connection.
                    with suppress(ConnectionResetError):
                        async for part in answer.aiter_raw():
                            await response.write(part)
                return response
        except httpx.ConnectError:
            return web.Response(status=HTTPStatus.SERVICE_UNAVAILABLE, text="the process does not answer\n")


def _passed_on(headers: Mapping[str, str]) -> Sequence[tuple[str, str]]:
    dropped = _OF_ONE_CONNECTION | {name.strip().lower() for name in headers.get("Connection", "").split(",")}
    return [(name, value) for name, value in headers.items() if name.lower() not in dropped]
