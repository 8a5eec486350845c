"""workers/network/connections.py over TLS: the machine's certificate authorities are read once, and only for TLS."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterator

import pytest

from schemas.errors import UnavailableError
from tests.support.models.backends import model_server
from tests.support.servers.http_server import answer
from tests.support.stack.certificates import Certificates
from workers.network import connections


@pytest.fixture(autouse=True)
def nothing_read_yet() -> Iterator[None]:
    """Each test begins like a new process."""
    connections._trusted.cache_clear()
    yield
    connections._trusted.cache_clear()


@pytest.fixture
async def url(certificates: Certificates) -> AsyncIterator[str]:
    """The URL of a server that answers `{}` over TLS."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates.server_certificate, certificates.server_key)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer({}))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with server:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/v2/models/m"


async def test_a_server_with_a_trusted_certificate_is_asked(
    url: str, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its authority is one of the machine's."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.ca))
    server = model_server(url)
    assert await server.look(within_seconds=30) == (200, b"{}")
    await server.close()


async def test_a_server_with_another_certificate_is_not_asked(
    url: str, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its identity is unknown."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.other_ca))
    server = model_server(url)
    with pytest.raises(UnavailableError, match="certificate"):
        await server.look(within_seconds=30)
    await server.close()


async def test_certificates_are_read_once_and_not_for_http(
    url: str, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a worker with thousands of versions would block for minutes."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.ca))
    plain = model_server("http://127.0.0.1:1/v2/models/m")
    with pytest.raises(UnavailableError):
        await plain.look(within_seconds=30)
    assert connections._trusted.cache_info().misses == 0
    for _ in range(2):
        server = model_server(url)
        await server.look(within_seconds=30)
        await server.close()
    assert connections._trusted.cache_info().misses == 1
    await plain.close()
