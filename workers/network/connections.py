"""httpx clients that connect only to hosts and networks that the operator allows.

They follow no redirects, ignore proxies and credentials of the environment, and always verify
certificates. The client resolves a name itself at each connection and connects to a checked address, so
a name server cannot change the address between check and use.
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
from workers.network.tokens import BearerAuth, bearer_token

KEEPALIVE_SECONDS = 60.0
# httpx needs a context for plain http too; this one trusts no certificate.
_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


async def new_client(
    url: str, outbound: Outbound, *, connect_timeout_seconds: float | None = None, host: str | None = None
) -> httpx.AsyncClient:
    """A client with one connection, for an allowed URL and the paths below it; `host` is its header of that name.

    It limits only the time to connect; the caller limits the whole call by `asyncio.timeout`. Raises
    SetupError when the bundle of certificate authorities cannot be read.
    """
    # Reading the authorities takes 60 ms, which would block the event loop.
    tls = await asyncio.to_thread(_trusted, outbound.ca_file) if url.startswith("https:") else _NO_TLS
    transport = httpx.AsyncHTTPTransport(verify=tls)
    # httpx has no public option for the network backend.
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
    if host is not None:
        headers["host"] = host
    headers |= outbound.extra_headers(url)
    return httpx.AsyncClient(
        transport=transport,
        headers=headers,
        auth=None if token is None else BearerAuth(bearer_token(token)),
        timeout=httpx.Timeout(None, connect=connect_timeout_seconds),
        follow_redirects=False,
        trust_env=False,
    )


class _CheckedNetwork(httpcore.AsyncNetworkBackend):
    """Connects only to allowed addresses, and tries each address of a name in turn."""

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
            raise httpcore.ConnectTimeout(f"resolving {host} timed out") from None
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(f"{host} cannot be resolved: {error}") from None
        addresses = list(dict.fromkeys(str(address[0]) for *_, address in found))
        allowed = [address for address in addresses if self._outbound.may_connect(host, address)]
        if not allowed:
            raise httpcore.ConnectError(
                f"{host} resolves to {', '.join(addresses)}, which is not public; "
                "list its network in HEADRACE_BACKEND_NETWORKS"
            )
        failure: httpcore.ConnectError | httpcore.ConnectTimeout | None = None
        for index, address in enumerate(allowed):
            # An address that does not respond must leave time for the others.
            share = None if timeout is None else max(0.0, end - loop.time()) / (len(allowed) - index)
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
