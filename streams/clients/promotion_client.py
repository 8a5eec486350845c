"""The asynchronous client for operators: gets promotion events decided over Kafka, or by PostgreSQL directly.

    async def main() -> None:
        async with PromotionClient(settings) as client:
            decision = await client.decide(event)

The client publishes the event to Kafka; a control worker decides it and publishes the result. When no result
arrives within `FALLBACK_SECONDS`, for whatever reason, the client also applies the same event in PostgreSQL and
returns the first result. This is safe because the registry applies an event once, however often it arrives. An
outage of Kafka or of the control workers therefore delays a rollback by half a second.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Literal, Never, Self

from pydantic import ValidationError

from schemas.errors import (
    BrokerUnavailableError,
    PromotionRejectedError,
    RegistryUnavailableError,
    RejectionCode,
    SetupError,
)
from schemas.events import JsonObject
from schemas.models import PromotionEvent, PromotionResult, event_body
from schemas.validation import one_line
from schemas.wire import object_or_none
from streams.config.security import redis_options
from streams.config.settings import Settings
from streams.headrace_client.pending_replies import ReplyForm
from streams.headrace_client.reply_connection import ReplyConnection, ReplyProtocol, retrieve_exception
from streams.kafka.errors import ERRORS
from streams.kafka.producer import open_link
from streams.promotions.events import read_event

FALLBACK_SECONDS = 0.5
DEFAULT_TIMEOUT_SECONDS = 10.0
# An event that is not delivered by then was decided by PostgreSQL, or its outcome is reported as unknown.
_CLOSE_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Decision:
    """A result, and the path that it came by."""

    result: PromotionResult
    via: Literal["kafka", "postgresql"]


class PromotionClient:
    """Use it as an asynchronous context manager; many tasks may share it.

    Entering neither waits nor raises: the client connects to Kafka in the background, and connects again for
    the next event after the connection broke. `on_fallback` is called with the reason whenever an event also
    goes to PostgreSQL.
    """

    def __init__(self, settings: Settings, *, on_fallback: Callable[[str], None] = lambda _: None) -> None:
        self._settings = settings
        self._on_fallback = on_fallback
        self._connection: ReplyConnection[PromotionResult]

    async def __aenter__(self) -> Self:
        self._connection = _connect(self._settings)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._connection.close()

    async def decide(
        self, event: PromotionEvent, *, timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS
    ) -> Decision:
        """Get an event decided; a refusal is a result with status `rejected`.

        Raises PromotionRejectedError when the event cannot be sent. Raises BrokerUnavailableError,
        RegistryUnavailableError or SetupError when neither path returns a result; the event may have been
        applied then, and may be sent again.
        """
        deadline_loop_seconds = asyncio.get_running_loop().time() + timeout_seconds
        value, event = _as_sent(event, self._settings.max_record_bytes)
        if self._connection.is_broken:
            self._connection = _connect(self._settings)
        by_kafka = _start(self._by_kafka(event, value))
        attempts = [by_kafka]
        try:
            await asyncio.wait(attempts, timeout=min(FALLBACK_SECONDS, timeout_seconds))
            failure = by_kafka.exception() if by_kafka.done() else None
            if failure is not None or not by_kafka.done():
                self._on_fallback(str(failure or f"no result from Kafka within {FALLBACK_SECONDS:g} s"))
                attempts.append(_start(self._by_postgresql(event)))
            decision = await _first_decision(attempts, deadline_loop_seconds)
            return decision or _raise_undecided(event, attempts, timeout_seconds)
        finally:
            for attempt in attempts:
                attempt.cancel()
            # Bounded: a service that hangs must not delay the result of the other one.
            await asyncio.wait(attempts, timeout=_CLOSE_SECONDS)

    async def _by_kafka(self, event: PromotionEvent, value: bytes) -> Decision:
        reply = await self._connection.send(event.event_id, event.model_name.encode(), value)
        return Decision(await reply, "kafka")

    async def _by_postgresql(self, event: PromotionEvent) -> Decision:
        result = await _apply(self._settings, event)
        await send_hint(self._settings, result)
        return Decision(result, "postgresql")


async def apply_directly(
    settings: Settings, event: PromotionEvent, *, timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS
) -> PromotionResult:
    """Apply an event in PostgreSQL; workers see the change at their next poll, or earlier by `send_hint`.

    Raises PromotionRejectedError when the event cannot be sent, SetupError, and RegistryUnavailableError; after
    the last one the event may have been applied.
    """
    _, event = _as_sent(event, settings.max_record_bytes)
    try:
        async with asyncio.timeout(timeout_seconds):
            return await _apply(settings, event)
    except TimeoutError:
        reason = f"no result from PostgreSQL within {timeout_seconds:g} s"
    except RegistryUnavailableError as error:
        reason = str(error)
    raise RegistryUnavailableError(f"{reason}; {_advice(event)}")


async def send_hint(settings: Settings, result: PromotionResult) -> None:
    """Notify the workers of an applied result over Redis; a failure is only logged."""
    if result.status != "applied":
        return
    # Late imports, here and in `_apply`: Kafka decides most events, and these cost an operator 0.2 s.
    from registry.broadcast import HintSender  # noqa: PLC0415
    from registry.installation import read_installation  # noqa: PLC0415
    from registry.postgres import Database  # noqa: PLC0415
    from streams.promotions.control import announce  # noqa: PLC0415

    # An unusable Redis certificate or a lost registry is no reason to hide a result: workers see it at their next poll.
    with suppress(SetupError, RegistryUnavailableError):
        options = redis_options(settings)
        database = await Database.connect(settings.postgres_dsn.get_secret_value())
        try:
            installation = await read_installation(database)
        finally:
            await database.close()
        hints = HintSender(channel=installation.hint_channel, **options)
        try:
            await announce(hints, result)
        finally:
            await hints.close()


async def _apply(settings: Settings, event: PromotionEvent) -> PromotionResult:
    from registry.store import RegistryStore  # noqa: PLC0415

    store = await RegistryStore.connect(settings.postgres_dsn.get_secret_value())
    try:
        return await store.apply(event)
    finally:
        await store.close()


def _connect(settings: Settings) -> ReplyConnection[PromotionResult]:
    protocol = ReplyProtocol(
        request_topic=settings.topic_promotions,
        form=ReplyForm("event_id", object_or_none, _parse_result),
        conflict=lambda event_id: PromotionRejectedError(
            RejectionCode.EVENT_CONFLICT, f"event {event_id} is being decided already"
        ),
        bootstrap=settings.kafka_bootstrap,
        errors=ERRORS,
    )
    return ReplyConnection(
        protocol,
        lambda: open_link(
            settings,
            settings.topic_promotions,
            settings.topic_promotion_results,
            close_seconds=_CLOSE_SECONDS,
        ),
    )


def _parse_result(document: JsonObject, value: bytes) -> PromotionResult:
    try:
        return PromotionResult.model_validate_json(value)
    except ValidationError as error:
        problems = one_line(error, root="result")
        raise BrokerUnavailableError(
            f"the result of {document['event_id']} breaks the contract: {problems}"
        ) from None


def _as_sent(event: PromotionEvent, max_bytes: int) -> tuple[bytes, PromotionEvent]:
    """An event as bytes, and the event that these bytes are read as: both paths must decide the same event."""
    value = event_body(event)
    read = read_event(value, max_bytes, datetime.now(UTC))
    if isinstance(read, PromotionEvent):
        return value, read
    raise PromotionRejectedError(RejectionCode.INVALID_EVENT, read.error.message if read.error else "")


def _start(deciding: Coroutine[Any, Any, Decision]) -> asyncio.Task[Decision]:
    task = asyncio.create_task(deciding)
    task.add_done_callback(retrieve_exception)
    return task


async def _first_decision(
    attempts: Sequence[asyncio.Task[Decision]], deadline_loop_seconds: float
) -> Decision | None:
    """The first decision; None when all attempts failed, or at the deadline."""
    pending = set(attempts)
    while pending:
        done, pending = await asyncio.wait(
            pending,
            timeout=max(0.0, deadline_loop_seconds - asyncio.get_running_loop().time()),
            return_when=asyncio.FIRST_COMPLETED,
        )
        if not done:
            return None
        for attempt in done:
            if attempt.exception() is None:
                return attempt.result()
    return None


def _raise_undecided(
    event: PromotionEvent, attempts: Sequence[asyncio.Task[Decision]], timeout_seconds: float
) -> Never:
    failures = [error for attempt in attempts if attempt.done() and (error := attempt.exception())]
    reasons = "; ".join(str(error) or repr(error) for error in failures)
    if failures and all(isinstance(error, SetupError) for error in failures):
        raise SetupError(reasons)
    if len(failures) == len(attempts):
        raise RegistryUnavailableError(f"{reasons}; {_advice(event)}") from failures[-1]
    # The event may be on the topic, where a control worker may find it at any later time.
    advice = _advice(event, later=True)
    raise BrokerUnavailableError(
        "; ".join(filter(None, [reasons, f"no result within {timeout_seconds:g} s", advice]))
    )


def _advice(event: PromotionEvent, *, later: bool = False) -> str:
    still = ", or may still be" if later else ""
    return f"it may have been applied{still}: look at `headrace status {event.model_name}`"
