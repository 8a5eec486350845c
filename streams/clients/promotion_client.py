"""The asynchronous client of operators: have a promotion event decided, by one of two ways.

    async with PromotionClient(settings) as client:
        decided = await client.decide(event)

The way is Kafka: the event is published, a control worker decides it and publishes the result. When no
result is there within `FALLBACK_SECONDS`, whatever the reason, the client gives the very same event to
PostgreSQL too and takes the result that comes first. That is safe because an event is applied once,
however often it arrives. So a control worker or a Kafka that is gone costs half a second, not the rollback.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Literal, Never, Self

from schemas.errors import (
    BrokerUnavailableError,
    PromotionRejectedError,
    RegistryUnavailableError,
    RejectionCode,
    SetupError,
)
from schemas.event_body import event_body
from schemas.models import PromotionEvent, PromotionResult
from streams.clients.promotion_link import CLOSE_SECONDS, PromotionLink, seen
from streams.config.security import redis_options
from streams.config.settings import Settings
from streams.promotions.events import read_event

FALLBACK_SECONDS = 0.5
DEFAULT_TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Decided:
    """A result, and the way by which it came."""

    result: PromotionResult
    via: Literal["kafka", "postgresql"]


class PromotionClient:
    """Use it as an asynchronous context manager; it may serve many tasks at once.

    Entering neither waits nor raises: the connection to Kafka is made in the background, and anew for
    the next event when it was lost. `on_fallback` is told why, when an event is given to PostgreSQL too.
    """

    def __init__(self, settings: Settings, *, on_fallback: Callable[[str], None] = lambda _: None) -> None:
        self._settings = settings
        self._on_fallback = on_fallback
        self._link: PromotionLink

    async def __aenter__(self) -> Self:
        self._link = PromotionLink(self._settings)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._link.close()

    async def decide(
        self, event: PromotionEvent, *, timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS
    ) -> Decided:
        """Have an event decided; a refusal is a result with status `rejected`.

        Raises PromotionRejectedError for what cannot be sent as an event, and when neither way gives a
        result BrokerUnavailableError, RegistryUnavailableError or SetupError. After one of these three
        the event may have been applied; the same event may be sent again.
        """
        give_up_at = asyncio.get_running_loop().time() + timeout_seconds
        value, event = _as_sent(event, self._settings.max_record_bytes)
        if self._link.broken:
            self._link = PromotionLink(self._settings)
        by_kafka = _way(self._by_kafka(event, value))
        ways = [by_kafka]
        try:
            await asyncio.wait(ways, timeout=min(FALLBACK_SECONDS, timeout_seconds))
            failure = by_kafka.exception() if by_kafka.done() else None
            if failure is not None or not by_kafka.done():
                self._on_fallback(str(failure or f"no result from Kafka within {FALLBACK_SECONDS:g} s"))
                ways.append(_way(self._by_postgresql(event)))
            decided = await _first_result(ways, give_up_at)
            return decided or _raise_neither(event, ways, timeout_seconds)
        finally:
            for way in ways:
                way.cancel()
            # A server that hangs must not hold up the result of the other.
            await asyncio.wait(ways, timeout=CLOSE_SECONDS)

    async def _by_kafka(self, event: PromotionEvent, value: bytes) -> Decided:
        return Decided(await self._link.decide(event, value), "kafka")

    async def _by_postgresql(self, event: PromotionEvent) -> Decided:
        result = await _apply(self._settings, event)
        await send_hint(self._settings, result)
        return Decided(result, "postgresql")


async def decide_directly(
    settings: Settings, event: PromotionEvent, *, timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS
) -> PromotionResult:
    """Have an event decided in PostgreSQL, without Kafka, and tell the workers by Redis if it is there.

    Raises what `apply_directly` does.
    """
    result = await apply_directly(settings, event, timeout_seconds=timeout_seconds)
    await send_hint(settings, result)
    return result


async def apply_directly(
    settings: Settings, event: PromotionEvent, *, timeout_seconds: float
) -> PromotionResult:
    """Have an event decided in PostgreSQL; workers see it at their next poll, or by a hint.

    Raises PromotionRejectedError for what cannot be sent as an event; RegistryUnavailableError, after
    which it may have been applied; SetupError.
    """
    _, event = _as_sent(event, settings.max_record_bytes)
    try:
        async with asyncio.timeout(timeout_seconds):
            return await _apply(settings, event)
    except TimeoutError:
        reason = f"no result from PostgreSQL within {timeout_seconds:g} s"
    except RegistryUnavailableError as error:
        reason = str(error)
    raise RegistryUnavailableError(f"{reason}; {_fate(event)}")


async def _apply(settings: Settings, event: PromotionEvent) -> PromotionResult:
    # Late, as in `send_hint`: most decisions come by Kafka, and this costs an operator a fifth of a second.
    from registry.store import RegistryStore  # noqa: PLC0415

    store = await RegistryStore.connect(settings.postgres_dsn.get_secret_value())
    try:
        return await store.apply(event)
    finally:
        await store.close()


async def send_hint(settings: Settings, result: PromotionResult) -> None:
    """Tell the workers of a result that was applied, if Redis is there; a failure is only logged."""
    if result.status != "applied":
        return
    from registry.broadcast import HintSender  # noqa: PLC0415
    from streams.promotions.control import announce  # noqa: PLC0415

    # Certificates that cannot be used are no reason to hide a result: workers follow by their next poll.
    with suppress(SetupError):
        hints = HintSender(
            settings.redis_url.get_secret_value(),
            timeout_seconds=settings.redis_timeout_seconds,
            connection_options=redis_options(settings),
        )
        try:
            await announce(hints, result)
        finally:
            await hints.close()


def _as_sent(event: PromotionEvent, max_bytes: int) -> tuple[bytes, PromotionEvent]:
    """An event as bytes, and as it is read from them: both ways must decide the very same."""
    value = event_body(event)
    read = read_event(value, max_bytes, datetime.now(UTC))
    if isinstance(read, PromotionEvent):
        return value, read
    raise PromotionRejectedError(RejectionCode.INVALID_EVENT, read.error.message if read.error else "")


def _way(deciding: Coroutine[Any, Any, Decided]) -> asyncio.Task[Decided]:
    task = asyncio.create_task(deciding)
    task.add_done_callback(seen)
    return task


async def _first_result(ways: Sequence[asyncio.Task[Decided]], give_up_at: float) -> Decided | None:
    """The first result; None when all ways failed, or at the loop's time `give_up_at`."""
    pending = set(ways)
    while pending:
        done, pending = await asyncio.wait(
            pending,
            timeout=max(0.0, give_up_at - asyncio.get_running_loop().time()),
            return_when=asyncio.FIRST_COMPLETED,
        )
        if not done:
            return None
        for way in done:
            if way.exception() is None:
                return way.result()
    return None


def _raise_neither(
    event: PromotionEvent, ways: Sequence[asyncio.Task[Decided]], timeout_seconds: float
) -> Never:
    failures = [error for way in ways if way.done() and (error := way.exception())]
    told = "; ".join(str(error) or repr(error) for error in failures)
    if failures and all(isinstance(error, SetupError) for error in failures):
        raise SetupError(told)
    if len(failures) == len(ways):
        raise RegistryUnavailableError(f"{told}; {_fate(event)}") from failures[-1]
    # The event may be on the topic, where a control worker finds it whenever it comes.
    fate = _fate(event, later=True)
    raise BrokerUnavailableError(
        "; ".join(filter(None, [told, f"no result within {timeout_seconds:g} s", fate]))
    )


def _fate(event: PromotionEvent, *, later: bool = False) -> str:
    still = ", or may still be" if later else ""
    return f"it may have been applied{still}: look at `headrace status {event.model_name}`"
