"""workers/network/connections.py: whom a name leads to, who gets a token, and whose certificate is believed.

What a name server says cannot be had for real here: the event loop's resolver says it in its place.
"""

import asyncio
import gc
import json
import math
import socket
import ssl
from asyncio import StreamWriter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from schemas.errors import AnswerError, ArtifactError, BackendFailedError, BackendUnavailableError, SetupError
from tests.support.models.backends import closed_later
from tests.support.servers.http_server import HttpRequest, answer, http_server
from tests.support.stack.certificates import SERVER_NAME, Certificates
from workers.backends.model_server import ModelServer
from workers.network import tokens
from workers.network.endpoints import Outbound

LOOPBACK = "127.0.0.0/8"
TOKEN = "t0ken-that-nobody-sees"

Resolve = Callable[..., None]


@pytest.fixture
def tls(certificates: Certificates) -> ssl.SSLContext:
    """The TLS context of a server for this machine and SERVER_NAME."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates.server_certificate, certificates.server_key)
    return context


@pytest.fixture
async def resolve(monkeypatch: pytest.MonkeyPatch) -> Resolve:
    """A function that makes every name resolve to these addresses, or raise the error."""

    def set_answer(*addresses: str | Exception) -> None:
        async def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
            found = []
            for address in addresses:
                if isinstance(address, Exception):
                    raise address
                found.append((socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)))
            return found

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)

    return set_answer


@asynccontextmanager
async def recording(
    response: bytes = answer({}), tls: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[str, list[HttpRequest]]]:
    """The URL of a server with a constant response, and its requests."""
    requests: list[HttpRequest] = []

    async def handle(request: HttpRequest, writer: StreamWriter) -> None:
        requests.append(request)
        writer.write(response)

    async with http_server(handle, tls) as url:
        yield url, requests


def named(url: str) -> str:
    """The same URL under SERVER_NAME."""
    return url.replace("127.0.0.1", SERVER_NAME)


@contextmanager
def deaf(address: str, port: int) -> Iterator[int]:
    """The port of a socket that accepts no connection: its queue is full, and packets get no reply."""
    with socket.socket() as listening, ExitStack() as waiting:
        listening.bind((address, port))
        listening.listen(0)
        bound: tuple[str, int] = listening.getsockname()
        for _ in range(3):
            one = waiting.enter_context(socket.socket())
            one.setblocking(False)
            with suppress(BlockingIOError):
                one.connect(bound)
        yield bound[1]


async def ask(
    url: str,
    outbound: Outbound,
    *,
    within_seconds: float = 30.0,
    connect_timeout_seconds: float | None = None,
    host: str | None = None,
) -> bytes:
    """The body of the response to a request for predictions."""
    server = ModelServer(url, outbound, connect_timeout_seconds=connect_timeout_seconds, host=host)
    try:
        async with asyncio.timeout(within_seconds):
            deadline_loop_seconds = asyncio.get_running_loop().time() + within_seconds
            return await server.predict("/infer", b"{}", deadline_loop_seconds=deadline_loop_seconds)
    finally:
        await server.close()


def listed(*networks: str, **fields: Any) -> Outbound:
    return Outbound([SERVER_NAME], networks, **fields)


@pytest.mark.parametrize("address", ["127.0.0.1", "169.254.169.254", "10.1.2.3", "0.0.0.0", "fe80::1"])
async def test_a_listed_name_leads_to_nothing_private(resolve: Resolve, address: str) -> None:
    """Otherwise whoever controls its name server could reach internal services."""
    resolve(address)
    async with recording() as (url, requests):
        with pytest.raises(BackendUnavailableError, match=r"not public; list its network in HEADRACE_BACK"):
            await ask(named(url), listed("10.128.0.0/9"))
    assert requests == []


async def test_a_network_of_the_operator_is_called(resolve: Resolve) -> None:
    """By the listed name, and only at addresses in that network."""
    resolve("169.254.169.254", "127.0.0.1", "10.1.2.3")
    async with recording() as (url, requests):
        assert await ask(named(url), listed(LOOPBACK)) == b"{}"
    (request,) = requests
    assert request.headers["host"] == named(url).removeprefix("http://")


async def test_a_name_is_checked_at_each_connection(resolve: Resolve) -> None:
    """It may resolve to another address then."""
    resolve("127.0.0.1")
    async with recording(b"HTTP/1.1 200 X\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}") as (url, _):
        server = closed_later(ModelServer(named(url), listed(LOOPBACK)))
        deadline_loop_seconds = asyncio.get_running_loop().time() + 30
        assert await server.predict("/infer", b"{}", deadline_loop_seconds=deadline_loop_seconds) == b"{}"
        resolve("169.254.169.254")
        with pytest.raises(BackendUnavailableError, match=r"169\.254\.169\.254, which is not public"):
            await server.predict("/infer", b"{}", deadline_loop_seconds=deadline_loop_seconds)
        await server.close()


async def test_the_next_address_is_tried(resolve: Resolve) -> None:
    """When the first address of a name does not listen."""
    resolve("127.0.0.2", "127.0.0.1")
    async with recording() as (url, requests):
        assert await ask(named(url), listed(LOOPBACK)) == b"{}"
    assert len(requests) == 1


async def test_an_address_that_says_nothing_leaves_time_for_the_next(resolve: Resolve) -> None:
    """When packets are lost, as with a broken IPv6 route."""
    resolve("127.0.0.2", "127.0.0.1")
    async with recording() as (url, requests):
        port = int(url.rpartition(":")[2])
        with deaf("127.0.0.2", port):
            body = await ask(named(url), listed(LOOPBACK), connect_timeout_seconds=1.0)
    assert body == b"{}"
    assert len(requests) == 1


async def test_a_connection_that_is_not_made_ends_in_time(resolve: Resolve) -> None:
    """Within connect_timeout_ms for each try, whatever the call's timeout."""
    resolve("127.0.0.2")
    with deaf("127.0.0.2", 0) as port:
        url = f"http://{SERVER_NAME}:{port}"
        with pytest.raises(BackendUnavailableError, match="ConnectTimeout"):
            await ask(url, listed(LOOPBACK), within_seconds=20, connect_timeout_seconds=0.1)


@pytest.mark.parametrize("error", [socket.gaierror(-2, "Name or service not known"), UnicodeError("label")])
async def test_a_name_that_is_not_resolved(resolve: Resolve, error: Exception) -> None:
    """It is unavailable, like a server that is down."""
    resolve(error)
    with pytest.raises(BackendUnavailableError, match=f"{SERVER_NAME} cannot be resolved"):
        await ask(f"http://{SERVER_NAME}:1", listed())


async def test_a_resolver_that_hangs_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Resolving counts as connecting."""

    async def getaddrinfo(*_: Any, **__: Any) -> list[Any]:
        await asyncio.Event().wait()
        return []

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    with pytest.raises(BackendUnavailableError, match=r"resolving .* timed out"):
        await ask(f"http://{SERVER_NAME}:1", listed(), connect_timeout_seconds=0.05)


async def test_a_token_goes_to_its_host_only() -> None:
    """Not to another port, and not to the target of a redirect."""
    async with recording() as (other, others):
        redirect = answer(b"", 307, f"location: {other}/infer\r\n")
        async with recording(redirect) as (url, requests):
            outbound = Outbound(tokens=SecretStr(f"{url.removeprefix('http://')}={TOKEN}"))
            with pytest.raises(BackendUnavailableError, match="not followed"):
                await ask(url, outbound)
            assert requests[0].headers["authorization"] == f"Bearer {TOKEN}"
            assert others == []
            await ask(other, outbound)
            assert "authorization" not in others[0].headers


async def test_the_token_of_a_file_is_sent_as_it_is_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also on a connection that is open: it is replaced while the server runs."""
    monkeypatch.setattr(tokens, "LOOK_EACH_SECONDS", 0.0)
    file = tmp_path / "key_file.json"
    async with recording() as (url, requests):
        outbound = Outbound(tokens=SecretStr(f"127.0.0.1=@{file}"))
        server = closed_later(ModelServer(url, outbound))
        for key in ("first", "the second"):
            file.write_text(json.dumps({"inference": {"key": key}}))
            await server.call("GET", "", deadline_loop_seconds=0.0)
        await server.close()
    assert [request.headers["authorization"] for request in requests] == ["Bearer first", "Bearer the second"]
    assert {request.connection for request in requests} == {1}


async def test_headers_of_the_settings_and_the_host_of_a_version() -> None:
    """A gateway gets its key, and the host by which it routes; a server that quotes the key is not quoted."""
    quoting = answer({"error": f"no right with {TOKEN}"}, 403)
    async with recording(quoting) as (url, requests):
        headers = SecretStr(f"{url.removeprefix('http://')}=X-Api-Key:{TOKEN}")
        outbound = Outbound(["127.0.0.1", "model.example.test"], headers=headers)
        with pytest.raises(BackendUnavailableError, match=r"no right with \*\*\*"):
            await ask(url, outbound, host="model.example.test")
        assert requests[0].headers["x-api-key"] == TOKEN
        assert requests[0].headers["host"] == "model.example.test"
        with pytest.raises(ArtifactError, match=r"server\.host: endpoint other.test:80 is not listed"):
            ModelServer(url, outbound, host="other.test")


@pytest.mark.parametrize("status", [400, 401, 500, 503])
async def test_a_token_is_in_no_error(status: int) -> None:
    """Also when a server quotes it: errors reach users, dead letters and logs."""
    quoting = answer({"error": f"no right with Bearer {TOKEN}"}, status)
    async with recording(quoting) as (url, _):
        outbound = Outbound(tokens=SecretStr(f"127.0.0.1={TOKEN}"))
        with pytest.raises(AnswerError, match=r"no right with Bearer \*\*\*") as failure:
            await ask(url, outbound)
        assert TOKEN not in str(failure.value)
        server = closed_later(ModelServer(url, outbound))
        assert TOKEN.encode() not in (await server.call("GET", "", deadline_loop_seconds=0.0))[1]
        await server.close()


async def test_a_name_is_that_of_the_certificate(
    resolve: Resolve, certificates: Certificates, tls: ssl.SSLContext
) -> None:
    """A certificate of the same authority for another name is refused."""
    resolve("127.0.0.1")
    async with recording(tls=tls) as (url, requests):
        port = url.rpartition(":")[2]
        assert await ask(named(url), listed(LOOPBACK, ca_file=str(certificates.ca))) == b"{}"
        outbound = Outbound(["other.test"], [LOOPBACK], ca_file=str(certificates.ca))
        with pytest.raises(BackendUnavailableError, match="Hostname mismatch"):
            await ask(f"https://other.test:{port}", outbound)
    assert len(requests) == 1


async def test_an_expired_certificate_is_not_believed(
    certificates: Certificates, tls: ssl.SSLContext
) -> None:
    """The request is not repeated; with a new certificate the server is called again."""
    outbound = Outbound(ca_file=str(certificates.ca))
    async with recording(tls=tls) as (url, requests):
        tls.load_cert_chain(certificates.expired_certificate, certificates.server_key)
        with pytest.raises(BackendUnavailableError, match="certificate has expired"):
            await ask(url, outbound)
        assert requests == []
        tls.load_cert_chain(certificates.server_certificate, certificates.server_key)
        assert await ask(url, outbound) == b"{}"


async def test_authorities_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    """As a fault of the settings, not of the server."""
    for content in (None, "no certificate"):
        bundle = tmp_path / f"{content}.pem"
        if content is not None:
            bundle.write_text(content)
        with pytest.raises(SetupError, match=f"cannot be read from {bundle}"):
            await ask("https://127.0.0.1:1", Outbound(ca_file=str(bundle)))


async def test_calls_leave_nothing_to_the_collector() -> None:
    """Garbage collection stops the worker, so a call must free its objects by itself, refused or answered."""

    async def answer_in_turns(request: HttpRequest, writer: StreamWriter) -> None:
        writer.write(answer({}, 200 if request.json() else 400))

    async with http_server(answer_in_turns) as url:
        server = closed_later(ModelServer(url, Outbound(networks=(LOOPBACK,))))

        async def call() -> None:
            await server.predict("", b"1", deadline_loop_seconds=math.inf)
            with suppress(BackendFailedError):
                await server.predict("", b"0", deadline_loop_seconds=math.inf)

        await call()
        gc.collect()
        gc.disable()
        try:
            for _ in range(10):
                await call()
            # The server of the test has garbage of its own.
            left = [type(each).__module__ for each in collected()]
        finally:
            gc.enable()
        await server.close()
    assert [each for each in left if each.startswith(("httpx", "httpcore"))] == []


def collected() -> list[Any]:
    """The objects that only garbage collection frees."""
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        gc.collect()
        return gc.garbage[:]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
