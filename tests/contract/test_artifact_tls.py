"""Model files over TLS: only from servers with a certificate of a trusted authority."""

import asyncio
import hashlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from schemas.errors import UnavailableError
from tests.support.servers.http_server import answer
from tests.support.stack.certificates import Certificates
from workers.artifacts.s3 import S3Server
from workers.artifacts.sources import ARTIFACT_HOSTS, ArtifactSources
from workers.artifacts.store import ArtifactStore
from workers.network.endpoints import Outbound

CONTENT = b"\x08 a model"


@asynccontextmanager
async def serving(certificates: Certificates) -> AsyncIterator[str]:
    """The base URL of a server that answers every request with the file."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates.server_certificate, certificates.server_key)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer(CONTENT, headers="last-modified: Wed, 25 Nov 2026 03:50:07 GMT\r\n"))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with server:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize("kind", ["https", "s3"])
@pytest.mark.parametrize("trusted", [True, False])
async def test_only_a_server_with_a_trusted_certificate_is_read_from(
    kind: str,
    trusted: bool,
    certificates: Certificates,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The environment's settings for TLS are ignored."""
    monkeypatch.setenv("AWS_ALLOW_INVALID_CERTIFICATES", "true")
    ca_file = str(certificates.ca if trusted else certificates.other_ca)
    async with serving(certificates) as url:
        sources = ArtifactSources(
            web=Outbound(ca_file=ca_file, setting=ARTIFACT_HOSTS), s3=S3Server(endpoint=url, ca_file=ca_file)
        )
        store = ArtifactStore(tmp_path / "cache", sources, max_bytes=100, cache_bytes=100, stall_seconds=30)
        uri = "s3://models/m.onnx" if kind == "s3" else f"{url}/m.onnx"
        if not trusted:
            with pytest.raises(UnavailableError, match="does not answer"):
                async with store.received(uri):
                    pass
            return
        async with store.received(uri) as artifact:
            assert artifact.sha256 == hashlib.sha256(CONTENT).hexdigest()
