"""Model files of web servers that redirect, stall, close the connection, deny access, or return other content."""

import asyncio
import hashlib
from asyncio import StreamWriter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from schemas.errors import ArtifactError, SetupError, UnavailableError
from tests.support.deadline import DEADLINE_SECONDS
from tests.support.servers.http_server import Handler, HttpRequest, answer, http_server
from workers.artifacts.folder import LOCK_NAME
from workers.artifacts.sources import ARTIFACT_HOSTS, ArtifactSources
from workers.artifacts.store import ArtifactStore
from workers.network.endpoints import Outbound

CONTENT = bytes(range(8, 256)) * 10_000
DIGEST = hashlib.sha256(CONTENT).hexdigest()
TOKEN = "a-token-of-the-test"


async def fetch(folder: Path, uri: str, sha256: str = DIGEST, *, web: Any = None, **options: Any) -> bytes:
    """The content, fetched into an empty folder; a failure leaves no file."""
    sources = ArtifactSources(web=web or Outbound(setting=ARTIFACT_HOSTS))
    limits = {"max_bytes": 2**40, "cache_bytes": 2**40} | options
    try:
        async with ArtifactStore(folder / "cache", sources, **limits).fetched(uri, sha256) as path:
            return path.read_bytes()
    except Exception:
        assert _left(folder / "cache") == []
        raise


def _left(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*") if path.name != LOCK_NAME]


@asynccontextmanager
async def serving(handler: Handler | bytes) -> AsyncIterator[str]:
    """The URL of a file whose server answers with the handler or these bytes."""

    async def always(request: HttpRequest, writer: StreamWriter) -> None:
        assert isinstance(handler, bytes)
        writer.write(handler)

    async with http_server(always if isinstance(handler, bytes) else handler) as url:
        yield f"{url}/models/m.onnx"


async def test_a_file_is_asked_for_as_it_is(tmp_path: Path) -> None:
    """One GET without compression and credentials."""
    requests: list[HttpRequest] = []

    async def note(request: HttpRequest, writer: StreamWriter) -> None:
        requests.append(request)
        writer.write(answer(CONTENT))

    async with serving(note) as uri:
        assert await fetch(tmp_path, uri) == CONTENT
    (request,) = requests
    assert (request.method, request.path, request.body) == ("GET", "/models/m.onnx", b"")
    assert request.headers["accept-encoding"] == "identity"
    assert "authorization" not in request.headers
    assert "content-type" not in request.headers


async def test_a_file_of_untold_length_is_whole_at_its_end(tmp_path: Path) -> None:
    """With HTTP's chunked encoding."""
    half = len(CONTENT) // 2
    parts = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (CONTENT[:half], CONTENT[half:]))
    response = b"HTTP/1.1 200 X\r\ntransfer-encoding: chunked\r\n\r\n" + parts + b"0\r\n\r\n"
    async with serving(response) as uri:
        assert await fetch(tmp_path, uri) == CONTENT


async def test_a_token_goes_to_its_host_only(tmp_path: Path) -> None:
    """As a bearer token; it is not sent to another port, which is another program."""
    seen: list[str | None] = []

    async def note(request: HttpRequest, writer: StreamWriter) -> None:
        seen.append(request.headers.get("authorization"))
        writer.write(answer(CONTENT))

    async with serving(note) as uri, serving(note) as other:
        tokens = SecretStr(f"elsewhere.test=no,{uri.split('/')[2]}={TOKEN}")
        web = Outbound(tokens=tokens, setting=ARTIFACT_HOSTS)
        await fetch(tmp_path / "1", uri, web=web)
        await fetch(tmp_path / "2", other, web=web)
    assert seen == [f"Bearer {TOKEN}", None]


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("http://models.test/m.onnx", "https only"),
        ("https://other.test/m.onnx", "not listed in HEADRACE_ARTIFACT_HOSTS"),
        ("https://models.test/m.onnx?X-Amz-Signature=of-somebody", "a query"),
        ("https://me:of-somebody@models.test/m.onnx", "a user"),
        ("https://models.test/\x7f", "characters that are invalid in a URL"),
    ],
)
async def test_what_is_not_asked(tmp_path: Path, uri: str, told: str) -> None:
    """A token without TLS to another machine, a host that is not listed, a URL with a secret."""
    web = Outbound(hosts=["models.test"], tokens=SecretStr(f"models.test={TOKEN}"), setting=ARTIFACT_HOSTS)
    with pytest.raises(ArtifactError, match=told) as refusal:
        await fetch(tmp_path, uri, web=web)
    assert TOKEN not in str(refusal.value)
    assert "of-somebody" not in str(refusal.value)


async def test_without_a_list_only_this_machine_is_asked(tmp_path: Path) -> None:
    """Addresses of the local network and of a cloud's metadata service are refused."""
    for host in ("169.254.169.254", "10.0.0.1", "models.test"):
        with pytest.raises(ArtifactError, match="list it in HEADRACE_ARTIFACT_HOSTS"):
            await fetch(tmp_path, f"http://{host}/m.onnx")


async def test_a_list_of_tokens_that_cannot_be_read(tmp_path: Path) -> None:
    """It is a fault of the settings, and is not quoted."""
    with pytest.raises(SetupError) as refusal:
        await fetch(tmp_path, "http://127.0.0.1/m.onnx", web=Outbound(tokens=SecretStr(TOKEN)))
    assert TOKEN not in str(refusal.value)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(tmp_path: Path, status: int) -> None:
    """The message does not quote the target, which may be a signed URL."""
    reached: list[str] = []

    async def elsewhere(request: HttpRequest, writer: StreamWriter) -> None:
        reached.append(request.path)
        writer.write(answer(CONTENT))

    async with serving(elsewhere) as other:
        response = answer(b"", status, f"location: {other}?signature=of-somebody\r\n")
        async with serving(response) as uri:
            with pytest.raises(
                ArtifactError, match=f"status {status}.*redirects are not followed"
            ) as failure:
                await fetch(tmp_path, uri)
    assert reached == []
    assert "of-somebody" not in str(failure.value)


@pytest.mark.parametrize(
    ("status", "error", "told"),
    [
        (401, ArtifactError, "access is denied.*HEADRACE_ARTIFACT_TOKENS"),
        (403, ArtifactError, "access is denied.*HEADRACE_ARTIFACT_TOKENS"),
        (404, ArtifactError, "does not exist"),
        (410, ArtifactError, "does not exist"),
        (204, ArtifactError, "instead of a file"),
        (206, ArtifactError, "instead of a file"),
        (418, ArtifactError, "instead of a file"),
        (429, UnavailableError, "try again later"),
        (500, UnavailableError, "try again later"),
        (503, UnavailableError, "try again later"),
    ],
)
async def test_statuses(tmp_path: Path, status: int, error: type[Exception], told: str) -> None:
    """Permanent and temporary failures; the body of the response is not quoted."""
    async with serving(answer(b"" if status == 204 else b"in its own words", status)) as uri:
        with pytest.raises(error, match=told) as failure:
            await fetch(tmp_path, uri)
    assert uri in str(failure.value)
    assert "in its own words" not in str(failure.value)


async def test_no_server_at_all(tmp_path: Path) -> None:
    """The failure is temporary."""
    async with serving(b"") as uri:
        pass
    with pytest.raises(UnavailableError, match="does not answer"):
        await fetch(tmp_path, uri)


async def test_what_is_no_http(tmp_path: Path) -> None:
    """Another program listens on the port."""

    async def handle(request: HttpRequest, writer: StreamWriter) -> bool:
        writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")
        return False

    async with serving(handle) as uri:
        with pytest.raises(UnavailableError, match="does not answer"):
            await fetch(tmp_path, uri)


@pytest.mark.parametrize("told", [b"content-length: %d" % len(CONTENT), b"transfer-encoding: chunked"])
async def test_a_file_that_breaks_off(tmp_path: Path, told: bytes) -> None:
    """The failure is temporary, not a wrong digest."""

    async def handle(request: HttpRequest, writer: StreamWriter) -> bool:
        begun = b"%x\r\n" % len(CONTENT) if b"chunked" in told else b""
        writer.write(b"HTTP/1.1 200 X\r\n" + told + b"\r\n\r\n" + begun + CONTENT[:-1])
        return False

    async with serving(handle) as uri:
        with pytest.raises(UnavailableError, match="connection broke"):
            await fetch(tmp_path, uri)


async def test_another_file(tmp_path: Path) -> None:
    """The message has both digests."""
    async with serving(answer(CONTENT + b"!")) as uri:
        with pytest.raises(ArtifactError, match=f"has SHA-256 .*{DIGEST} is registered"):
            await fetch(tmp_path, uri)


async def test_a_pickle_that_is_called_otherwise(tmp_path: Path) -> None:
    """Its first bytes identify it."""
    async with serving(answer(b"\x80\x04\x95" + CONTENT)) as uri:
        with pytest.raises(ArtifactError, match="is a pickle"):
            await fetch(tmp_path, uri)


@pytest.mark.parametrize("length", [b"content-length: 1000000000000\r\n", b""])
async def test_a_file_that_is_too_large_is_not_read_to_its_end(tmp_path: Path, length: bytes) -> None:
    """With or without a Content-Length; the server sees the closed connection."""
    given_up = asyncio.Event()

    async def handle(request: HttpRequest, writer: StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n" + length + b"\r\n")
        try:
            while True:
                writer.write(b"\x08" * 65536)
                await writer.drain()
        except ConnectionError:
            given_up.set()
            raise

    async with serving(handle) as uri:
        with pytest.raises(ArtifactError, match="more than 2000000 bytes"):
            await fetch(tmp_path, uri, max_bytes=2_000_000)
        async with asyncio.timeout(DEADLINE_SECONDS):
            await given_up.wait()


@pytest.mark.parametrize("begun", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n\x08"])
async def test_a_server_that_stalls(tmp_path: Path, begun: bytes) -> None:
    """Before its headers, and after them."""

    async def handle(request: HttpRequest, writer: StreamWriter) -> None:
        writer.write(begun)
        await asyncio.Event().wait()

    async with serving(handle) as uri:
        with pytest.raises(UnavailableError, match=r"within 0\.1 s"):
            await fetch(tmp_path, uri, stall_seconds=0.1)


async def test_a_server_that_drips(tmp_path: Path) -> None:
    """Single bytes arrive in time, but too slowly for 1 MiB."""

    async def handle(request: HttpRequest, writer: StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n")
        while True:
            writer.write(b"\x08")
            await writer.drain()
            await asyncio.sleep(0.01)

    async with serving(handle) as uri:
        with pytest.raises(UnavailableError, match="less than 1 MiB arrived"):
            await fetch(tmp_path, uri, stall_seconds=1.0)


async def test_proxies_of_the_environment_are_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are for other programs."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with serving(answer(CONTENT)) as uri:
        assert await fetch(tmp_path, uri) == CONTENT
