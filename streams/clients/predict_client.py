"""The asynchronous client: sends requests to Kafka and awaits their responses.

    async def main() -> None:
        async with PredictClient(settings) as client:
            response = await client.predict("product-recommendations", user_id="u42", input={"n": 10})

A response with `error` is a response, but for OVERLOADED, which says that the same request may succeed later. The
client raises then, when a request breaks the contract, when the broker cannot be reached, and when no response comes
in time. It reads every record of the response topic and keeps its own, so it suits tools and tests; applications use
`headrace_client`, which reads less. It commits no offsets, and clients do not disturb each other.
"""

import asyncio
import uuid
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from types import TracebackType
from typing import Self

import orjson
from pydantic import ValidationError

from schemas.errors import (
    InternalError,
    InvalidRequestError,
    ResponseTimeoutError,
    UnavailableError,
    VersionOverloadedError,
)
from schemas.events import ErrorCode, JsonObject, PredictRequest, PredictResponse
from schemas.validation import one_line
from schemas.wire import object_or_none
from streams.config.settings import Settings
from streams.headrace_client.pending_replies import ReplyForm
from streams.headrace_client.reply_connection import ReplyConnection, ReplyProtocol
from streams.kafka.errors import ERRORS
from streams.kafka.producer import open_link

DEFAULT_TIMEOUT_SECONDS = 10.0
DEFAULT_IN_FLIGHT = 1000
_CLOSE_SECONDS = 5.0

Answer = PredictResponse | UnavailableError
_Pending = asyncio.Future[PredictResponse]


def make_request(
    model_name: str,
    *,
    user_id: str,
    input: JsonObject,  # noqa: A002  # the contract's word
    deadline_ms: int | None = None,
) -> PredictRequest:
    """A request with a new id; raises InvalidRequestError, whose message names each invalid field."""
    return check_request(
        {"model_name": model_name, "user_id": user_id, "input": input, "deadline_ms": deadline_ms}
    )


def check_request(document: JsonObject) -> PredictRequest:
    """A request from its fields, with a new id if it has no `request_id`; raises InvalidRequestError."""
    try:
        return PredictRequest.model_validate({"request_id": str(uuid.uuid4())} | document)
    except ValidationError as error:
        raise InvalidRequestError(one_line(error, root="request")) from None


class PredictClient:
    """Use it as an asynchronous context manager; many tasks may share it.

    Entering raises BrokerUnavailableError within 10 s, or SetupError when a topic is missing.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._connection: ReplyConnection[PredictResponse]

    async def __aenter__(self) -> Self:
        settings = self._settings
        protocol = ReplyProtocol(
            request_topic=settings.topic_requests,
            form=ReplyForm("request_id", object_or_none, _parse_response),
            conflict=lambda request_id: InvalidRequestError(f"request_id {request_id} is in flight already"),
            bootstrap=settings.kafka_bootstrap,
            errors=ERRORS,
        )
        self._connection = ReplyConnection(
            protocol,
            lambda: open_link(
                settings, settings.topic_requests, settings.topic_responses, close_seconds=_CLOSE_SECONDS
            ),
        )
        try:
            await self._connection.connected()
        except BaseException:  # a cancelled start must not leave connections open either
            await self._connection.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._connection.close()

    async def predict(
        self,
        model_name: str,
        *,
        user_id: str,
        input: JsonObject,  # noqa: A002  # the contract's word
        deadline_ms: int | None = None,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
    ) -> PredictResponse:
        """Request one prediction and await its response, which may carry `error`.

        Raises InvalidRequestError, VersionOverloadedError, ResponseTimeoutError after `timeout_seconds`,
        BrokerUnavailableError.
        """
        request = make_request(model_name, user_id=user_id, input=input, deadline_ms=deadline_ms)
        deadline_loop_seconds = asyncio.get_running_loop().time() + timeout_seconds
        try:
            async with asyncio.timeout_at(deadline_loop_seconds):
                pending = await self._send(request)
        except TimeoutError:
            raise ResponseTimeoutError(request.request_id, timeout_seconds) from None
        return await _response(pending, request.request_id, deadline_loop_seconds, timeout_seconds)

    async def predict_many(
        self,
        requests: Iterable[PredictRequest] | AsyncIterable[PredictRequest],
        *,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
        max_in_flight: int = DEFAULT_IN_FLIGHT,
    ) -> AsyncIterator[Answer]:
        """Send requests as the iterable yields them; yield one answer per request, in their order.

        At most `max_in_flight` requests wait for their answer to be yielded. The timeout of each request begins
        when it is sent. A request without a response yields its ResponseTimeoutError or BrokerUnavailableError, one
        that was refused its VersionOverloadedError, and the others continue. Raises InvalidRequestError for a request that breaks the contract, and any
        error of `requests`, after the answers to the requests before it.
        """
        loop = asyncio.get_running_loop()
        slots = asyncio.Semaphore(max_in_flight)
        sent: asyncio.Queue[tuple[_Pending, str, float] | Exception | None] = asyncio.Queue()
        in_flight: deque[_Pending] = deque()

        async def feed() -> None:
            end: Exception | None = None
            try:
                async for request in _each(requests):
                    await slots.acquire()
                    pending = await self._send(request)
                    in_flight.append(pending)
                    sent.put_nowait((pending, request.request_id, loop.time() + timeout_seconds))
            except Exception as error:  # noqa: BLE001  # raised below, after the answers before it
                end = error
            sent.put_nowait(end)

        feeding = asyncio.create_task(feed())
        try:
            while isinstance(entry := await sent.get(), tuple):
                try:
                    yield await _response(*entry, timeout_seconds)
                except UnavailableError as error:
                    yield error
                in_flight.popleft()
                slots.release()
            if entry is not None:
                raise entry
        finally:
            feeding.cancel()
            for pending in in_flight:
                pending.cancel()

    async def _send(self, request: PredictRequest) -> _Pending:
        value = _encode(request, self._settings.max_record_bytes)
        return await self._connection.send(request.request_id, request.user_id.encode(), value)


async def _response(
    pending: _Pending, request_id: str, deadline_loop_seconds: float, timeout_seconds: float
) -> PredictResponse:
    if not pending.done():
        try:
            async with asyncio.timeout_at(deadline_loop_seconds):
                await pending
        except TimeoutError:
            raise ResponseTimeoutError(request_id, timeout_seconds) from None
    response = pending.result()
    if response.error is not None and response.error.code is ErrorCode.OVERLOADED:
        raise VersionOverloadedError(response)
    return response


def _parse_response(document: JsonObject, _: bytes) -> PredictResponse:
    try:
        return PredictResponse.model_validate(document)
    except ValidationError as error:
        problems = one_line(error, root="response")
        raise InternalError(
            f"the response to {document['request_id']} breaks the contract: {problems}"
        ) from None


def _encode(request: PredictRequest, max_bytes: int) -> bytes:
    document: JsonObject = {
        "request_id": request.request_id,
        "model_name": request.model_name,
        "user_id": request.user_id,
        "input": request.input,
    }
    if request.deadline_ms is not None:
        document["deadline_ms"] = request.deadline_ms
    try:
        value = orjson.dumps(document)
    except orjson.JSONEncodeError as error:
        raise InvalidRequestError(f"input cannot be encoded as JSON: {error}") from None
    if len(value) > max_bytes:
        raise InvalidRequestError(f"the request has {len(value)} bytes; workers accept at most {max_bytes}")
    return value


async def _each(
    requests: Iterable[PredictRequest] | AsyncIterable[PredictRequest],
) -> AsyncIterator[PredictRequest]:
    if isinstance(requests, AsyncIterable):
        async for request in requests:
            yield request
    else:
        for request in requests:
            yield request
