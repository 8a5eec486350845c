"""HTTP calls to a model server, for every backend that is remote.

Each call in flight has an httpx client with one connection to itself: one client shared by many
calls gets slower the more they are, since it searches its pool for each. Redirects are not
followed, proxies and credentials of the environment are not used.

A request is sent a second time only where the server cannot have answered it: when no connection
could be made, and when a connection that had served before is reset before the answer begins, as
servers do with connections that idle, and some after another request's 500.

Time limits are the caller's, by `asyncio.timeout`; a call that is cancelled closes its connection.
"""

import asyncio
import ssl
from collections.abc import Sequence
from functools import cache
from typing import Any

import httpx

from schemas.errors import ArtifactError, BackendFailedError, BackendUnavailableError
from workers.endpoints import check_endpoint

CALLS_IN_FLIGHT = 8
MAX_RESPONSE_BYTES = 64 * 1024 * 1024
_EXCERPT_CHARACTERS = 200
# For http, which httpx makes a context for too; it trusts nobody.
_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


class ModelServer:
    """A server at an endpoint that is allowed; raises ArtifactError and SetupError otherwise."""

    def __init__(
        self,
        endpoint: str,
        allowed_hosts: Sequence[str] = (),
        *,
        calls_in_flight: int = CALLS_IN_FLIGHT,
        max_response_bytes: int = MAX_RESPONSE_BYTES,
    ) -> None:
        self.url = check_endpoint(endpoint, allowed_hosts)
        try:
            httpx.URL(self.url)
        except httpx.InvalidURL:
            raise ArtifactError(
                "endpoint has characters that no URL has; write http://HOST:PORT/PATH"
            ) from None
        self._max_response_bytes = max_response_bytes
        self._slots = asyncio.Semaphore(calls_in_flight)
        self._idle: list[httpx.AsyncClient] = []
        self._closed = False

    async def call(self, method: str, path: str, content: bytes | None = None) -> tuple[int, bytes]:
        """The status and body of the answer to a request below the endpoint's URL.

        Raises BackendUnavailableError when there is no answer, BackendFailedError when it breaks
        off or is too big.
        """
        async with self._slots:
            if self._closed:
                raise BackendUnavailableError("the model was unloaded")
            client = self._idle.pop() if self._idle else await self._new_client()
            try:
                response = await self._begin(client, method, self.url + path, content)
                try:
                    return response.status_code, await self._read(response)
                finally:
                    await response.aclose()
            finally:
                if self._closed:
                    await client.aclose()
                else:
                    self._idle.append(client)

    async def close(self) -> None:
        """Close the connections that are idle, and the others when their calls end. Idempotent."""
        self._closed = True
        while self._idle:
            await self._idle.pop().aclose()

    async def _begin(
        self, client: httpx.AsyncClient, method: str, url: str, content: bytes | None
    ) -> httpx.Response:
        """The response, its body unread, of the first or the second try."""
        connected = False

        async def note_connecting(event: str, _: dict[str, Any]) -> None:
            nonlocal connected
            connected = connected or event == "connection.connect_tcp.started"

        request = client.build_request(method, url, content=content, extensions={"trace": note_connecting})
        try:
            return await client.send(request, stream=True)
        except httpx.HTTPError as error:
            if connected and not isinstance(error, httpx.ConnectError):
                raise _unavailable(error) from None
        try:
            return await client.send(request, stream=True)
        except httpx.HTTPError as error:
            raise _unavailable(error) from None

    async def _read(self, response: httpx.Response) -> bytes:
        body = bytearray()
        try:
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > self._max_response_bytes:
                    raise BackendFailedError(
                        f"the model server answered more than {self._max_response_bytes} bytes"
                    )
        except httpx.HTTPError as error:
            raise BackendFailedError(f"the model server broke off its answer: {_brief(error)}") from None
        return bytes(body)

    async def _new_client(self) -> httpx.AsyncClient:
        tls = await asyncio.to_thread(_trusted) if self.url.startswith("https:") else _NO_TLS
        return httpx.AsyncClient(
            verify=tls,
            limits=httpx.Limits(max_connections=1, max_keepalive_connections=1),
            headers={
                "accept": "application/json",
                "accept-encoding": "identity",
                "content-type": "application/json",
            },
            timeout=None,  # noqa: S113 - the caller's asyncio.timeout bounds the call as a whole
            follow_redirects=False,
            trust_env=False,
        )


@cache
def _trusted() -> ssl.SSLContext:
    """The machine's certificate authorities. To read them takes 60 ms, for which no event loop should wait."""
    return ssl.create_default_context()


def _unavailable(error: httpx.HTTPError) -> BackendUnavailableError:
    return BackendUnavailableError(f"the model server does not answer: {_brief(error)}")


def _brief(error: httpx.HTTPError) -> str:
    return (str(error) or type(error).__name__)[:_EXCERPT_CHARACTERS]
