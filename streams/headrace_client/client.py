"""The client of an application: one object for predictions, promotions and outcomes."""

import asyncio
import ssl
from contextlib import AsyncExitStack
from datetime import datetime
from types import TracebackType
from typing import Any, Self

from .client_errors import InvalidRequestError, NoResponseError, OverloadedError, PromotionRejectedError
from .connecting import LinkOptions, open_producer
from .installation import ERRORS, STANDARD_TOPICS, SaslMechanism, Topics, kafka_security
from .kafka_link import open_link
from .messages import (
    JsonObject,
    Message,
    PromotionResult,
    Response,
    outcome_event,
    prediction_request,
    promotion_event,
    read_object,
    read_response,
    read_result,
)
from .pending_replies import Reply, ReplyForm
from .reply_connection import ReplyConnection, ReplyProtocol, retrieve_exception

DEFAULT_TIMEOUT_SECONDS = 10.0
_CLOSE_SECONDS = 5.0
_MAX_REQUEST_BYTES = 1024 * 1024
_PREDICTIONS: ReplyForm[Response] = ReplyForm("request_id", read_object, read_response)
_PROMOTIONS: ReplyForm[PromotionResult] = ReplyForm("event_id", read_object, read_result)


class Client:
    """Use it as an asynchronous context manager; many tasks may share it.

    It connects at the first call of each kind, and again for the next call after a connection broke. `bootstrap` is
    host:port[,host:port]. With `tls` the connection is encrypted; with `username` and `password` it uses SASL.
    `max_request_bytes` is HEADRACE_MAX_RECORD_BYTES of the workers.
    """

    def __init__(
        self,
        bootstrap: str,
        *,
        topics: Topics = STANDARD_TOPICS,
        tls: ssl.SSLContext | None = None,
        username: str | None = None,
        password: str | None = None,
        sasl_mechanism: SaslMechanism = "SCRAM-SHA-512",
        max_request_bytes: int = _MAX_REQUEST_BYTES,
    ) -> None:
        self._topics = topics
        security = kafka_security(tls, username, password, sasl_mechanism)
        self._options = LinkOptions(bootstrap, security, ERRORS, max_request_bytes, _CLOSE_SECONDS)
        self._predictions: ReplyConnection[Response] | None = None
        self._promotions: ReplyConnection[PromotionResult] | None = None
        self._outcomes = AsyncExitStack()
        self._outcome_producer: asyncio.Task[Any] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        opened = [each for each in (self._predictions, self._promotions) if each is not None]
        if self._outcome_producer is not None:
            await asyncio.wait([self._outcome_producer])
        await asyncio.gather(self._outcomes.aclose(), *(each.close() for each in opened))

    async def predict(
        self,
        model_name: str,
        *,
        user_id: str,
        input: JsonObject,  # noqa: A002  # the contract's word
        deadline_ms: int | None = None,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
    ) -> Response:
        """Request one prediction and await its response, which may carry `error`.

        `deadline_ms` is the time after which workers do not answer any more. Raises InvalidRequestError,
        OverloadedError, NoResponseError after `timeout_seconds`, NotReachableError, SetupError.
        """
        request = self._checked(
            prediction_request(model_name, user_id=user_id, input=input, deadline_ms=deadline_ms)
        )
        if self._predictions is None or self._predictions.is_broken:
            self._predictions = self._connect(self._topics.requests, self._topics.responses, _PREDICTIONS)
        response = await _reply(
            self._predictions,
            request,
            timeout_seconds,
            f"no response to {request.message_id}; is a worker running",
        )
        if response.error is not None and response.error.code == "OVERLOADED":
            raise OverloadedError(response)
        return response

    async def promote(
        self,
        model_name: str,
        version: str,
        *,
        reason: str = "",
        actor: str = "",
        expected_revision: int | None = None,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
    ) -> PromotionResult:
        """Give all users of a model one version. Workers follow within a second.

        With `expected_revision` the change is refused when the model is at another revision. Raises
        PromotionRejectedError, InvalidRequestError, NotReachableError, SetupError, and NoResponseError when no control
        worker decides it in time; it may be applied later then.
        """
        event = promotion_event(
            model_name,
            "promote",
            version=version,
            reason=reason,
            actor=actor,
            expected_revision=expected_revision,
        )
        return await self._decide(event, timeout_seconds)

    async def canary(
        self,
        model_name: str,
        version: str,
        percent: float,
        *,
        reason: str = "",
        actor: str = "",
        expected_revision: int | None = None,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
    ) -> PromotionResult:
        """Give `percent` of the users a version, more than 0 and less than 100; as `promote` otherwise."""
        event = promotion_event(
            model_name,
            "canary",
            version=version,
            weight=percent,
            reason=reason,
            actor=actor,
            expected_revision=expected_revision,
        )
        return await self._decide(event, timeout_seconds)

    async def rollback(
        self,
        model_name: str,
        *,
        reason: str = "",
        actor: str = "",
        expected_revision: int | None = None,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
    ) -> PromotionResult:
        """Stop the canary, or go back to the previous production; as `promote` otherwise.

        `headrace rollback` works while Kafka or the control worker is down; this does not.
        """
        event = promotion_event(
            model_name, "rollback", reason=reason, actor=actor, expected_revision=expected_revision
        )
        return await self._decide(event, timeout_seconds)

    async def outcome(
        self,
        model_name: str,
        *,
        user_id: str,
        name: str,
        value: float = 1.0,
        request_id: str | None = None,
        outcome_id: str | None = None,
        occurred_at: datetime | None = None,
    ) -> str:
        """Report what a user did after a prediction; returns its `outcome_id` when Kafka has it.

        An `outcome_id` counts once, so a report that may have been sent can be sent again with the same one. Raises
        InvalidRequestError, NotReachableError, SetupError.
        """
        event = self._checked(
            outcome_event(
                model_name,
                user_id=user_id,
                name=name,
                value=value,
                request_id=request_id,
                outcome_id=outcome_id,
                occurred_at=occurred_at,
            )
        )
        topic = self._topics.outcomes
        if self._outcome_producer is None or _has_failed(self._outcome_producer):
            opening = self._outcomes.enter_async_context(open_producer(self._options, topic))
            self._outcome_producer = asyncio.create_task(opening)
            self._outcome_producer.add_done_callback(retrieve_exception)
        producer = await asyncio.shield(self._outcome_producer)
        with ERRORS.translated(self._options.bootstrap, topic):
            await producer.send_and_wait(topic, event.value, key=event.key)
        return event.message_id

    async def _decide(self, event: Message, timeout_seconds: float) -> PromotionResult:
        if self._promotions is None or self._promotions.is_broken:
            topics = self._topics
            self._promotions = self._connect(topics.promotions, topics.promotion_results, _PROMOTIONS)
        result = await _reply(
            self._promotions,
            self._checked(event),
            timeout_seconds,
            f"no result of {event.message_id}, which may be applied later; does a worker have the role `control`",
        )
        if result.status != "applied":
            raise PromotionRejectedError(result)
        return result

    def _connect(
        self, request_topic: str, reply_topic: str, form: ReplyForm[Reply]
    ) -> ReplyConnection[Reply]:
        protocol = ReplyProtocol(
            request_topic=request_topic,
            form=form,
            conflict=lambda message_id: InvalidRequestError(f"{message_id} is in flight already"),
            bootstrap=self._options.bootstrap,
            errors=ERRORS,
        )
        return ReplyConnection(protocol, lambda: open_link(self._options, request_topic, reply_topic))

    def _checked(self, message: Message) -> Message:
        if len(message.value) > self._options.max_request_bytes:
            raise InvalidRequestError(
                f"the request has {len(message.value)} bytes; workers accept at most "
                f"{self._options.max_request_bytes}"
            )
        return message


async def _reply(
    connection: ReplyConnection[Reply], message: Message, timeout_seconds: float, late: str
) -> Reply:
    try:
        async with asyncio.timeout(timeout_seconds):
            return await (await connection.send(message.message_id, message.key, message.value))
    except TimeoutError:
        raise NoResponseError(f"{late}? {timeout_seconds:g} s have passed", message.message_id) from None


def _has_failed(opening: asyncio.Task[Any]) -> bool:
    return opening.done() and (opening.cancelled() or opening.exception() is not None)
