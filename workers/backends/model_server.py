"""HTTP calls to a model server, for every remote backend.

Each call in flight uses an httpx client of its own with one connection: a client shared by many calls
searches its pool for each of them, which costs more the more calls there are. Idle connections stay open.

A request is repeated only as `workers/network/retry.py` allows: when no connection could be made; when a
reused connection is reset before the response begins, which servers do to idle connections, and some after
another request's 500; and after statuses by which servers and gateways report that the request was not
processed. All tries are within the caller's deadline and a retry budget.

A cancelled call closes its connection.
"""

import asyncio
import random
from collections.abc import Collection, Mapping
from contextvars import ContextVar
from typing import Any

import httpx

from schemas.errors import (
    ArtifactError,
    BackendBrokenError,
    BackendFailedError,
    BackendTooLargeError,
    BackendUnavailableError,
    UnavailableError,
)
from workers.backends.response_room import ResponseRoom
from workers.backends.responses import OK, describe_response, error_of_response, is_busy
from workers.network.connections import new_client
from workers.network.endpoints import Outbound
from workers.network.retry import (
    MAX_TRIES,
    RetryBudget,
    earned,
    is_retried,
    pause_seconds,
    read_retry_after,
    spent,
)
from workers.network.tokens import bearer_token

CALLS_IN_FLIGHT = 32
MAX_RESPONSE_BYTES = 64 * 1024 * 1024
_EXCERPT_CHARACTERS = 200

TRACE_HEADERS: ContextVar[Mapping[str, str] | None] = ContextVar("trace_headers", default=None)
"""Headers with the trace context of the running task, which continue its trace in the server; None untraced."""


class ModelServer:
    """A model server at an allowed endpoint; raises ArtifactError and SetupError for others.

    `faults` are statuses by which this server reports a fault of the model: they are not retried. `room` is what the
    responses of all servers of the process share. `host` is the header of requests, which must be an allowed host too.
    """

    def __init__(
        self,
        endpoint: str,
        outbound: Outbound,
        *,
        calls_in_flight: int = CALLS_IN_FLIGHT,
        max_response_bytes: int = MAX_RESPONSE_BYTES,
        connect_timeout_seconds: float | None = None,
        faults: Collection[int] = (),
        room: ResponseRoom | None = None,
        host: str | None = None,
    ) -> None:
        self.url = outbound.check(endpoint)
        try:
            httpx.URL(self.url)
        except httpx.InvalidURL:
            raise ArtifactError(
                "endpoint has characters that are invalid in a URL; write http://HOST:PORT/PATH"
            ) from None
        if host is not None:
            _check_host(outbound, host)
        self._host = host
        self._token = bearer_token(outbound.token(self.url) or "")
        self._secret_headers = tuple(outbound.extra_headers(self.url).values())
        self._outbound = outbound
        self._max_response_bytes = max_response_bytes
        self._connect_timeout_seconds = connect_timeout_seconds
        self._faults = faults
        self._room = room or ResponseRoom()
        self._slots = asyncio.Semaphore(calls_in_flight)
        self._idle: list[httpx.AsyncClient] = []
        self._budget = RetryBudget()
        self._closed = False

    async def predict(self, path: str, content: bytes, *, deadline_loop_seconds: float) -> bytes:
        """The body of the response with status 200 to a request for predictions.

        Raises BackendUnavailableError without a response or when the model is missing, BackendFailedError
        when the server refuses the request, and BackendBrokenError for every other response. No retry
        begins after `deadline_loop_seconds`, of the event loop's clock.
        """
        status, body = await self.call("POST", path, content, deadline_loop_seconds=deadline_loop_seconds)
        if status != OK:
            raise error_of_response(status, body, self._faults)
        return body

    async def look(
        self, path: str = "", content: bytes | None = None, *, within_seconds: float
    ) -> tuple[int, bytes]:
        """Status and body of the response to `GET`, or `POST` with a content, before the model is served.

        Raises UnavailableError without a response within `within_seconds`, or when the server is busy.
        """
        method = "GET" if content is None else "POST"
        deadline_loop_seconds = asyncio.get_running_loop().time() + within_seconds
        try:
            async with asyncio.timeout(within_seconds):
                status, body = await self.call(
                    method, path, content, deadline_loop_seconds=deadline_loop_seconds
                )
        except TimeoutError:
            raise UnavailableError(f"the model server does not answer within {within_seconds:g} s") from None
        except (BackendUnavailableError, BackendFailedError) as error:
            raise UnavailableError(str(error)) from None
        if is_busy(status):
            raise UnavailableError(describe_response(status, body))
        return status, body

    async def call(
        self, method: str, path: str, content: bytes | None = None, *, deadline_loop_seconds: float
    ) -> tuple[int, bytes]:
        """The status and body of the response to a request below the endpoint's URL.

        Raises BackendUnavailableError without a response, BackendBrokenError when the response is not HTTP or
        incomplete, BackendTooLargeError when it is too large.
        """
        async with self._slots:
            if self._closed:
                raise BackendUnavailableError("the model was unloaded")
            client = self._idle.pop() if self._idle else await self._new_client()
            kept = False
            try:
                answer = await self._try(client, method, self.url + path, content, deadline_loop_seconds)
                kept = not self._closed
            finally:
                # After a cancelled call, for example during its connection, a client cannot connect again.
                if kept:
                    self._idle.append(client)
                else:
                    await client.aclose()
            return answer

    async def close(self) -> None:
        """Close idle connections now, and the others when their calls end. Idempotent."""
        self._closed = True
        while self._idle:
            await self._idle.pop().aclose()

    async def _try(
        self,
        client: httpx.AsyncClient,
        method: str,
        url: str,
        content: bytes | None,
        deadline_loop_seconds: float,
    ) -> tuple[int, bytes]:
        self._budget = earned(self._budget)
        tries = 0
        while True:
            tries += 1
            connected = False

            async def note_connecting(event: str, _: dict[str, Any]) -> None:
                nonlocal connected
                connected = connected or event == "connection.connect_tcp.complete"

            request = client.build_request(
                method,
                url,
                content=content,
                headers=TRACE_HEADERS.get(),
                extensions={"trace": note_connecting},
            )
            # Type and message instead of the error: its traceback would keep this frame and its objects alive.
            failure: tuple[type[BackendUnavailableError | BackendBrokenError], str] | None = None
            status, body = 0, b""
            try:
                response = await client.send(request, stream=True)
            except httpx.HTTPError as error:
                failure = kind, message = _failure(error)
                if connected:
                    # The server may be processing the request.
                    raise kind(message) from None
                refused = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
                pause = pause_seconds(tries, random.random()) if refused else 0.0  # noqa: S311  # no secret
            else:
                try:
                    body = await self._read(response)
                finally:
                    await response.aclose()
                    # The stream and the response refer to each other: after thousands of calls the garbage
                    # collector would stop the worker for a quarter of a second.
                    del response.stream
                status = response.status_code
                retry_after = read_retry_after(response.headers.get("retry-after"))
                if status != OK:
                    for secret in filter(None, (self._token.current(), *self._secret_headers)):
                        # Some servers quote it in their error.
                        body = body.replace(secret.encode(), b"***")
                if status in self._faults or not is_retried(status, retry_after):
                    return status, body
                pause = pause_seconds(tries, random.random(), retry_after)  # noqa: S311  # no secret
            if asyncio.get_running_loop().time() + pause >= deadline_loop_seconds or not self._may_retry(
                tries
            ):
                if failure is not None:
                    kind, message = failure
                    raise kind(message)
                return status, body
            await asyncio.sleep(pause)

    def _may_retry(self, tries: int) -> bool:
        left = spent(self._budget)
        if tries >= MAX_TRIES or left is None:
            return False
        self._budget = left
        return True

    async def _read(self, response: httpx.Response) -> bytes:
        limit = self._max_response_bytes
        too_large = f"the model server answered more than {limit} bytes"
        if int(response.headers.get("content-length", 0)) > limit:
            raise BackendTooLargeError(too_large)
        body = bytearray()
        arrival = self._room.arrival()
        try:
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > limit:
                    raise BackendTooLargeError(too_large)
                await arrival.enter(len(chunk))
        except httpx.HTTPError as error:
            raise BackendBrokenError(f"the model server broke off its response: {_brief(error)}") from None
        finally:
            arrival.leave()
        return bytes(body)

    async def _new_client(self) -> httpx.AsyncClient:
        return await new_client(
            self.url, self._outbound, connect_timeout_seconds=self._connect_timeout_seconds, host=self._host
        )


def _check_host(outbound: Outbound, host: str) -> None:
    """Raise ArtifactError unless the host is allowed: a gateway could lead to any service by it."""
    try:
        outbound.check(f"http://{host}")
    except ArtifactError as error:
        raise ArtifactError(f"server.host: {error}") from None


def _failure(error: httpx.HTTPError) -> tuple[type[BackendUnavailableError | BackendBrokenError], str]:
    # The library reports a closed connection only by this message.
    if isinstance(error, httpx.RemoteProtocolError) and not str(error).startswith("Server disconnected"):
        return BackendBrokenError, f"the model server did not answer in HTTP: {_brief(error)}"
    return BackendUnavailableError, f"the model server does not answer: {_brief(error)}"


def _brief(error: httpx.HTTPError) -> str:
    return (str(error) or type(error).__name__)[:_EXCERPT_CHARACTERS]
