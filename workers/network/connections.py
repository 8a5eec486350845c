"""httpx clients that connect only to where the operator of the workers allows.

Redirects are not followed, proxies and credentials of the environment are not used, certificates are
always verified. A name is resolved by ourselves at each connection and its addresses are checked, so
that what is called is what was checked.
"""

import asyncio
import math
import socket
import ssl
from collections.abc import Iterable
from functools import cache
from typing import Any

import httpcore
import httpx

from schemas.errors import SetupError
from workers.network.endpoints import Outbound

KEEPALIVE_SECONDS = 60.0
# For http, which httpx makes a context for too; it trusts nobody.
_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


async def new_client(
    url: str, outbound: Outbound, *, connect_timeout_seconds: float | None = None
) -> httpx.AsyncClient:
    """A client with one connection, for one allowed URL and what is below it.

    But for connecting it has no time limits: those are the caller's, by `asyncio.timeout`. Raises
    SetupError when the bundle of certificate authorities cannot be read.
    """
    # To read the authorities takes 60 ms, for which no event loop should wait.
    tls = await asyncio.to_thread(_trusted, outbound.ca_file) if url.startswith("https:") else _NO_TLS
    transport = httpx.AsyncHTTPTransport(verify=tls)
    # httpx offers no other way to say how connections are made.
    transport._pool = httpcore.AsyncConnectionPool(  # noqa: SLF001
        ssl_context=tls,
        max_connections=1,
        max_keepalive_connections=1,
        keepalive_expiry=KEEPALIVE_SECONDS,
        network_backend=_CheckedNetwork(outbound),
    )
    headers = {
        "accept": "application/json",
        "accept-encoding": "identity",
        "content-type": "application/json",
    }
    token = outbound.token(url)
    if token is not None:
        headers["authorization"] = f"Bearer {token}"
    return httpx.AsyncClient(
        transport=transport,
        headers=headers,
        timeout=httpx.Timeout(None, connect=connect_timeout_seconds),
        follow_redirects=False,
        trust_env=False,
    )


class _CheckedNetwork(httpcore.AsyncNetworkBackend):
    """Connects to addresses that may be called."""

    def __init__(self, outbound: Outbound) -> None:
        self._outbound = outbound
        self._network = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  # the overridden method's signature
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        loop = asyncio.get_running_loop()
        end = math.inf if timeout is None else loop.time() + timeout
        try:
            async with asyncio.timeout(timeout):
                found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except TimeoutError:
            raise httpcore.ConnectTimeout(f"{host} is not resolved in time") from None
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(f"{host} cannot be resolved: {error}") from None
        addresses = list(dict.fromkeys(str(address[0]) for *_, address in found))
        allowed = [address for address in addresses if self._outbound.may_connect(host, address)]
        if not allowed:
            raise httpcore.ConnectError(
                f"{host} is {', '.join(addresses)}, which is not public; list its network in HEADRACE_BACKEND_NETWORKS"
            )
        failure: httpcore.ConnectError | httpcore.ConnectTimeout | None = None
        for place, address in enumerate(allowed):
            # One that says nothing must leave time for the others.
            share = None if timeout is None else max(0.0, end - loop.time()) / (len(allowed) - place)
            try:
                return await self._network.connect_tcp(
                    address, port, timeout=share, local_address=local_address, socket_options=socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        assert failure is not None  # there is at least one address
        raise failure


@cache
def _trusted(ca_file: str | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise SetupError(f"certificate authorities cannot be read from {ca_file}: {error.strerror}") from None
