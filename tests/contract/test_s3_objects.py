"""Model files in S3: what is asked of a store, and a store that denies, breaks off, stalls or is not there.

tests/servers/test_s3.py does the same on a real one.
"""

import asyncio
import hashlib
from asyncio import StreamWriter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from schemas.errors import ArtifactError, UnavailableError
from tests.support.servers.http_server import Handler, HttpRequest, answer, http_server
from workers.artifacts.folder import LOCK_NAME
from workers.artifacts.s3 import S3Server
from workers.artifacts.sources import ArtifactSources
from workers.artifacts.store import ArtifactStore

CONTENT = bytes(range(8, 256)) * 10_000
DIGEST = hashlib.sha256(CONTENT).hexdigest()
URI = "s3://models/team/m v1+2%20é.onnx"
SECRET = "a-secret-of-the-test"
_META = 'etag: "1"\r\nlast-modified: Wed, 25 Nov 2026 03:50:07 GMT\r\n'
_ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "environment-id",
    "AWS_SECRET_ACCESS_KEY": "environment-secret",
    "AWS_SESSION_TOKEN": "environment-token",
    "AWS_REGION": "environment-region",
    "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
    "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9",
    "AWS_REQUEST_PAYER": "true",
    "AWS_S3_EXPRESS": "true",
    "AWS_SKIP_SIGNATURE": "true",
    "AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "true",
    "AWS_PROXY_URL": "http://127.0.0.1:9",
    "HTTP_PROXY": "http://127.0.0.1:9",
    "http_proxy": "http://127.0.0.1:9",
    "ALL_PROXY": "http://127.0.0.1:9",
}


async def fetch(
    folder: Path, server: S3Server, uri: str = URI, sha256: str = DIGEST, **options: Any
) -> bytes:
    """The content, fetched into an empty folder; a failure leaves no file."""
    limits = {"max_bytes": 2**40, "cache_bytes": 2**40} | options
    store = ArtifactStore(folder / "cache", ArtifactSources(s3=server), **limits)
    try:
        async with store.fetched(uri, sha256) as path:
            return path.read_bytes()
    except Exception:
        assert _left(folder / "cache") == []
        raise


def _left(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*") if path.name != LOCK_NAME]


@asynccontextmanager
async def serving(handler: Handler | bytes) -> AsyncIterator[S3Server]:
    """A store that answers with the handler or these bytes."""

    async def always(request: HttpRequest, writer: StreamWriter) -> None:
        assert isinstance(handler, bytes)
        writer.write(handler)

    async with http_server(always if isinstance(handler, bytes) else handler) as url:
        yield S3Server(
            endpoint=url, region="here", access_key_id="key-id", secret_access_key=SecretStr(SECRET)
        )


def noting(requests: list[HttpRequest]) -> Handler:
    async def note(request: HttpRequest, writer: StreamWriter) -> None:
        requests.append(request)
        writer.write(answer(CONTENT, headers=_META))

    return note


async def test_what_is_asked_is_in_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Address, region and credentials; those of the environment are ignored."""
    for name, value in _ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    requests: list[HttpRequest] = []
    async with serving(noting(requests)) as server:
        assert await fetch(tmp_path, server) == CONTENT
    (request,) = requests
    assert request.path == "/models/team/m%20v1%2B2%2520%C3%A9.onnx"
    authorization = request.headers["authorization"]
    assert authorization.startswith("AWS4-HMAC-SHA256 Credential=key-id/")
    assert "/here/s3/aws4_request" in authorization
    assert not {"x-amz-security-token", "x-amz-request-payer"} & request.headers.keys()


async def test_without_credentials_nothing_is_signed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials of the environment or of a cloud machine are not used."""
    for name, value in _ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_SKIP_SIGNATURE")
    requests: list[HttpRequest] = []
    async with http_server(noting(requests)) as url:
        assert await fetch(tmp_path, S3Server(endpoint=url)) == CONTENT
    assert "authorization" not in requests[0].headers


@pytest.mark.parametrize(
    ("status", "code", "error", "told"),
    [
        (404, "NoSuchKey", ArtifactError, "does not exist"),
        (404, "NoSuchBucket", ArtifactError, "does not exist"),
        (401, "Unauthorized", ArtifactError, "access is denied.*HEADRACE_S3_ACCESS_KEY_ID"),
        (403, "AccessDenied", ArtifactError, "access is denied.*HEADRACE_S3_ACCESS_KEY_ID"),
        (503, "SlowDown", UnavailableError, "answers with status 503; try again later"),
    ],
)
async def test_store_statuses(
    tmp_path: Path, status: int, code: str, error: type[Exception], told: str
) -> None:
    """Permanent and temporary failures; the response body is not quoted."""
    body = f'<?xml version="1.0"?><Error><Code>{code}</Code><AWSAccessKeyId>key-id</AWSAccessKeyId></Error>'
    async with serving(answer(body.encode(), status)) as server:
        with pytest.raises(error, match=told) as failure:
            await fetch(tmp_path, server)
    message = str(failure.value)
    assert URI in message
    assert not [secret for secret in (SECRET, "key-id", "Signature") if secret in message]


async def test_no_store_at_all(tmp_path: Path) -> None:
    """The failure is temporary."""
    async with serving(b"") as server:
        pass
    with pytest.raises(UnavailableError, match="does not answer"):
        await fetch(tmp_path, server)


async def test_a_store_that_answers_without_tls_is_not_asked_in_clear(tmp_path: Path) -> None:
    """An endpoint with https is called only over TLS."""
    requests: list[HttpRequest] = []
    async with http_server(noting(requests)) as url:
        with pytest.raises(UnavailableError):
            await fetch(tmp_path, S3Server(endpoint=url.replace("http:", "https:")), stall_seconds=0.3)
    assert requests == []


async def test_an_object_that_breaks_off_is_asked_for_from_there(tmp_path: Path) -> None:
    """The rest is requested again; an object that stays incomplete is a temporary failure."""
    ranges: list[str | None] = []
    half = len(CONTENT) // 2

    async def handle(request: HttpRequest, writer: StreamWriter) -> bool | None:
        ranges.append(request.headers.get("range"))
        if ranges[-1] is None:
            head = f"HTTP/1.1 200 X\r\ncontent-length: {len(CONTENT)}\r\n{_META}\r\n"
            writer.write(head.encode() + CONTENT[:half])
            return False
        begin = int(ranges[-1].removeprefix("bytes=").split("-")[0])
        part = f"content-range: bytes {begin}-{len(CONTENT) - 1}/{len(CONTENT)}\r\n"
        writer.write(answer(CONTENT[begin:], 206, part + _META))
        return None

    async with serving(handle) as server:
        assert await fetch(tmp_path, server) == CONTENT
    assert len(ranges) == 2

    async def never(request: HttpRequest, writer: StreamWriter) -> bool:
        writer.write(
            f"HTTP/1.1 200 X\r\ncontent-length: {len(CONTENT)}\r\n{_META}\r\n".encode() + CONTENT[:half]
        )
        return False

    async with serving(never) as server:
        with pytest.raises(UnavailableError, match="connection broke"):
            await fetch(tmp_path / "other", server)


@pytest.mark.parametrize(
    "begun",
    [b"", f"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n{_META}\r\n\x08".encode()],
)
async def test_a_store_that_stalls(tmp_path: Path, begun: bytes) -> None:
    """Before its headers, and after them."""

    async def handle(request: HttpRequest, writer: StreamWriter) -> None:
        writer.write(begun)
        await asyncio.Event().wait()

    async with serving(handle) as server:
        with pytest.raises(UnavailableError, match=r"within 0\.2 s"):
            await fetch(tmp_path, server, stall_seconds=0.2)


async def test_an_object_that_is_too_large(tmp_path: Path) -> None:
    """Its size is known before its content."""
    async with serving(answer(CONTENT, headers=_META)) as server:
        with pytest.raises(ArtifactError, match="more than 1000 bytes"):
            await fetch(tmp_path, server, max_bytes=1000)


async def test_another_object(tmp_path: Path) -> None:
    """The message has both digests."""
    async with serving(answer(CONTENT[1:], headers=_META)) as server:
        with pytest.raises(ArtifactError, match=f"has SHA-256 .*{DIGEST} is registered"):
            await fetch(tmp_path, server)


@pytest.mark.parametrize(
    "uri", ["s3://models", "s3://models/", "s3:///m.onnx", "s3://Models/m", "s3://models/a//b"]
)
async def test_what_is_no_object(tmp_path: Path, uri: str) -> None:
    """Before any request."""
    with pytest.raises(ArtifactError, match="write s3://BUCKET/KEY"):
        await fetch(tmp_path, S3Server(endpoint="http://127.0.0.1:9"), uri)


async def test_keys_may_look_like_queries(tmp_path: Path) -> None:
    """In S3 a question mark is part of the key."""
    paths: list[str] = []

    async def note(request: HttpRequest, writer: StreamWriter) -> None:
        paths.append(request.path)
        writer.write(answer(CONTENT, headers=_META))

    async with serving(note) as server:
        await fetch(tmp_path, server, "s3://models/a?b=c#d")
    assert paths == ["/models/a%3Fb%3Dc%23d"]
