"""Model files of web servers, over HTTP and HTTPS.

Only allowed hosts are called (`workers/network/connections.py`), without redirects and proxies of the
environment, and with verified certificates. A URL must not have credentials; tokens come from the settings
and are sent only over TLS or to this machine.
"""

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from urllib.parse import urlsplit

import httpx

from schemas.errors import ArtifactError, UnavailableError
from workers.artifacts.port import CHUNK_BYTES, ArtifactStream
from workers.network.connections import new_client
from workers.network.endpoints import Outbound

CONNECT_SECONDS = 10.0
_BUSY = frozenset({408, 425, 429})
_NOT_SHOWN_BEYOND = 200


@dataclass(frozen=True, slots=True)
class HttpFile:
    """The file at `url`, which `outbound` allows.

    `uri` names it in errors, and `denied` is the advice when access is denied. `headers` are sent with the
    request and never shown.
    """

    url: str
    outbound: Outbound
    uri: str
    denied: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, uri: str, outbound: Outbound) -> "HttpFile":
        """The file at an http or https URL; raises ArtifactError when it is not allowed, and SetupError."""
        url = checked_url(uri, outbound)
        if outbound.token(url) is not None and not is_private(url):
            raise ArtifactError(
                f"{uri} has a token in HEADRACE_ARTIFACT_TOKENS, which is sent over https only"
            )
        return cls(url, outbound, uri, "put a token for its host into HEADRACE_ARTIFACT_TOKENS")

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[ArtifactStream, None]:
        async with get_response(self.url, self.outbound, self.uri, self.headers) as response:
            refuse_status(response.status_code, self.uri, self.denied)
            length = response.headers.get("content-length", "")
            yield ArtifactStream(int(length) if length.isdecimal() else None, _chunks(response, self.uri))


@asynccontextmanager
async def get_response(
    url: str, outbound: Outbound, shown: str, headers: Mapping[str, str]
) -> AsyncGenerator[httpx.Response, None]:
    """The response to GET with an unread body; raises UnavailableError without a response."""
    # The URL of a version cannot have a query; only Headrace's own requests do.
    address = url.partition("?")[0]
    async with await new_client(address, outbound, connect_timeout_seconds=CONNECT_SECONDS) as client:
        request = client.build_request("GET", url, headers={"accept": "*/*", **headers})
        del request.headers["content-type"]
        try:
            response = await client.send(request, stream=True)
        except httpx.HTTPError as error:
            raise UnavailableError(f"{shown}: the server does not answer: {_brief(error)}") from None
        try:
            yield response
        finally:
            await response.aclose()


def checked_url(url: str, outbound: Outbound) -> str:
    """The normalised URL; raises ArtifactError when it is not allowed, and SetupError."""
    try:
        allowed = outbound.check(url)
        httpx.URL(allowed)
    except ArtifactError as error:
        raise ArtifactError(f"artifact_uri: {error}") from None
    except httpx.InvalidURL:
        raise ArtifactError(
            "artifact_uri has characters that are invalid in a URL; write https://HOST/PATH"
        ) from None
    return allowed


def is_private(url: str) -> bool:
    """True when a secret can be sent confidentially: over TLS, or to this machine."""
    parts = urlsplit(url)
    if parts.scheme == "https" or parts.hostname == "localhost":
        return True
    try:
        return ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return False


def refuse_status(status: int, shown: str, denied: str) -> None:
    """Raises ArtifactError or UnavailableError for every status but 200."""
    if status == httpx.codes.OK:
        return
    if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        raise ArtifactError(f"{shown}: access is denied (status {status}); {denied}")
    if status in (httpx.codes.NOT_FOUND, httpx.codes.GONE):
        raise ArtifactError(f"{shown} does not exist (status {status})")
    if httpx.codes.is_redirect(status):
        # The target is not quoted: it may be a signed URL.
        raise ArtifactError(
            f"{shown} redirects (status {status}), and redirects are not followed; register the target's URL"
        )
    if status in _BUSY or httpx.codes.is_server_error(status):
        raise UnavailableError(f"{shown}: the server answers with status {status}; try again later")
    raise ArtifactError(f"{shown}: the server answers with status {status} instead of a file")


async def _chunks(response: httpx.Response, shown: str) -> AsyncGenerator[bytes, None]:
    try:
        async for chunk in response.aiter_raw(CHUNK_BYTES):
            yield chunk
    except httpx.HTTPError as error:
        raise UnavailableError(f"{shown}: the connection broke: {_brief(error)}") from None


def _brief(error: httpx.HTTPError) -> str:
    return (str(error) or type(error).__name__)[:_NOT_SHOWN_BEYOND]
