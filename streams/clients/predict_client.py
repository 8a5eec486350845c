"""The asynchronous client: send requests to Kafka, await their responses.

    async with PredictClient(settings) as client:
        response = await client.predict("product-recommendations", user_id="u42", input={"n": 10})

A response with `error` is a response; what raises is a request that breaks the contract, a broker that
cannot be reached, and the absence of a response. The client reads every response of the topic and
keeps its own, so it suits tools, tests and services of moderate rate; it commits nothing, and two
clients do not disturb each other.
"""

import asyncio
import uuid
from collections import Counter, deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from types import TracebackType
from typing import Self

import orjson
from aiokafka import AIOKafkaProducer
from pydantic import ValidationError

from schemas.errors import (
    BrokerUnavailableError,
    InternalError,
    InvalidRequestError,
    MalformedRecordError,
    ResponseTimeoutError,
    UnavailableError,
)
from schemas.events import JsonObject, PredictRequest, PredictResponse
from schemas.validation import one_line
from schemas.wire import read_object
from streams.config.settings import Settings
from streams.kafka.errors import kafka_errors
from streams.kafka.producer import open_producer
from streams.kafka.tail import Tail, open_tail

DEFAULT_TIMEOUT_SECONDS = 10.0
DEFAULT_IN_FLIGHT = 1000
_CLOSE_SECONDS = 5.0

Answer = PredictResponse | UnavailableError
_Waiting = asyncio.Future[PredictResponse]


def make_request(
    model_name: str,
    *,
    user_id: str,
    input: JsonObject,  # noqa: A002  # the contract's word
    deadline_ms: int | None = None,
) -> PredictRequest:
    """A request with an id of its own; raises InvalidRequestError, which names what is wrong."""
    return check_request(
        {"model_name": model_name, "user_id": user_id, "input": input, "deadline_ms": deadline_ms}
    )


def check_request(document: JsonObject) -> PredictRequest:
    """A request from its fields; without `request_id` it gets one. Raises InvalidRequestError."""
    try:
        return PredictRequest.model_validate({"request_id": str(uuid.uuid4())} | document)
    except ValidationError as error:
        raise InvalidRequestError(one_line(error, root="request")) from None


class PredictClient:
    """Use it as an asynchronous context manager; it may serve many tasks at once.

    Entering raises BrokerUnavailableError within 10 s, or SetupError when a topic is missing.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._waiting: dict[str, _Waiting] = {}
        self._keys: Counter[bytes] = Counter()
        self._ended: Exception | None = None
        self._resources = AsyncExitStack()
        self._producer: AIOKafkaProducer

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as opened:
            # The reader first: nothing is sent before its response could be seen.
            tail = await opened.enter_async_context(open_tail(self._settings, self._settings.topic_responses))
            await opened.enter_async_context(self._reader(tail))
            self._producer = await opened.enter_async_context(
                open_producer(self._settings, self._settings.topic_requests, close_seconds=_CLOSE_SECONDS)
            )
            self._resources = opened.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._resources.__aexit__(kind, error, trace)

    async def predict(
        self,
        model_name: str,
        *,
        user_id: str,
        input: JsonObject,  # noqa: A002  # the contract's word
        deadline_ms: int | None = None,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
    ) -> PredictResponse:
        """Ask for one prediction and await its response, which may carry `error`.

        Raises InvalidRequestError, ResponseTimeoutError after `timeout_seconds`, BrokerUnavailableError.
        """
        request = make_request(model_name, user_id=user_id, input=input, deadline_ms=deadline_ms)
        give_up_at = asyncio.get_running_loop().time() + timeout_seconds
        try:
            async with asyncio.timeout_at(give_up_at):
                waiting = await self._send(request)
        except TimeoutError:
            raise ResponseTimeoutError(request.request_id, timeout_seconds) from None
        return await _response(waiting, request.request_id, give_up_at, timeout_seconds)

    async def predict_many(
        self,
        requests: Iterable[PredictRequest] | AsyncIterable[PredictRequest],
        *,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
        max_in_flight: int = DEFAULT_IN_FLIGHT,
    ) -> AsyncIterator[Answer]:
        """Send requests as they come and yield one answer for each, in the order of the requests.

        At most `max_in_flight` requests are without a yielded answer; the time of each counts from
        its sending. A request without a response yields its ResponseTimeoutError or
        BrokerUnavailableError instead, and the others go on. Raises InvalidRequestError for a request
        that breaks the contract, after the answers to those before it, and whatever `requests` raises.
        """
        loop = asyncio.get_running_loop()
        room = asyncio.Semaphore(max_in_flight)
        sent: asyncio.Queue[tuple[_Waiting, str, float] | Exception | None] = asyncio.Queue()
        in_flight: deque[_Waiting] = deque()

        async def feed() -> None:
            end: Exception | None = None
            try:
                async for request in _each(requests):
                    await room.acquire()
                    waiting = await self._send(request)
                    in_flight.append(waiting)
                    sent.put_nowait((waiting, request.request_id, loop.time() + timeout_seconds))
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
                room.release()
            if entry is not None:
                raise entry
        finally:
            feeding.cancel()
            for waiting in in_flight:
                waiting.cancel()

    async def _send(self, request: PredictRequest) -> _Waiting:
        if self._ended is not None:
            raise self._ended
        value = _encode(request, self._settings.max_record_bytes)
        if request.request_id in self._waiting:
            raise InvalidRequestError(f"request_id {request.request_id} is in flight already")
        waiting: _Waiting = asyncio.get_running_loop().create_future()
        key = request.user_id.encode()
        self._waiting[request.request_id] = waiting
        self._keys[key] += 1
        waiting.add_done_callback(partial(self._forget, request.request_id, key))
        topic = self._settings.topic_requests
        try:
            with kafka_errors(self._settings, topic):
                delivery = await self._producer.send(topic, value, key=key)
        except BaseException:  # a cancelled caller too must leave nothing that waits
            waiting.cancel()
            raise
        delivery.add_done_callback(partial(self._delivered, waiting))
        return waiting

    def _forget(self, request_id: str, key: bytes, waiting: _Waiting) -> None:
        if not waiting.cancelled():
            waiting.exception()  # seen: one that nobody awaits any more is no news
        del self._waiting[request_id]
        self._keys[key] -= 1
        if not self._keys[key]:
            del self._keys[key]

    def _delivered(self, waiting: _Waiting, delivery: asyncio.Future[object]) -> None:
        if delivery.cancelled() or (error := delivery.exception()) is None or waiting.done():
            return
        try:
            with kafka_errors(self._settings, self._settings.topic_requests):
                raise error
        except (UnavailableError, InvalidRequestError) as translated:
            waiting.set_exception(translated)

    @asynccontextmanager
    async def _reader(self, tail: Tail) -> AsyncIterator[None]:
        reading = asyncio.create_task(self._read(tail))
        try:
            yield
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _read(self, tail: Tail) -> None:
        end: Exception = BrokerUnavailableError("the client is closed")
        try:
            while True:
                for record in await tail.next_records():
                    # Most responses of a busy topic are not ours; only those of our keys are parsed.
                    if record.key in self._keys:
                        self._answer(record.value)
        except Exception as error:  # noqa: BLE001  # raised by everyone who waits, or will
            end = error
        finally:
            self._ended = end
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_exception(end)

    def _answer(self, value: bytes | None) -> None:
        try:
            document = read_object(value)
        except MalformedRecordError:
            return  # nobody's response
        request_id = document.get("request_id")
        waiting = self._waiting.get(request_id) if isinstance(request_id, str) else None
        # A response may be written twice; the first one counts.
        if waiting is None or waiting.done():
            return
        try:
            waiting.set_result(PredictResponse.model_validate(document))
        except ValidationError as error:
            waiting.set_exception(
                InternalError(
                    f"the response to {request_id} breaks the contract: {one_line(error, root='response')}"
                )
            )


async def _response(
    waiting: _Waiting, request_id: str, give_up_at: float, timeout_seconds: float
) -> PredictResponse:
    if not waiting.done():
        try:
            async with asyncio.timeout_at(give_up_at):
                return await waiting
        except TimeoutError:
            raise ResponseTimeoutError(request_id, timeout_seconds) from None
    return waiting.result()


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
        raise InvalidRequestError(f"input cannot be written as JSON: {error}") from None
    if len(value) > max_bytes:
        raise InvalidRequestError(f"the request has {len(value)} bytes; workers take at most {max_bytes}")
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
