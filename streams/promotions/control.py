"""Deciding promotions: events in, results out, and a hint to the workers.

One event after the other, in the topic's order. Each is decided in one transaction of the registry,
then its result is written and the hint is sent, and only when the broker has the result is the event
acknowledged. After a crash anywhere between, the event comes again: the registry repeats its result
and changes nothing, and result and hint are sent again. So a result may be read twice, and is then
recognised by its `event_id`.

An event that is no event is refused by a result with a code; nothing stops the topic. While PostgreSQL
is away, or is no registry, the events wait.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import structlog

from registry.broadcast import HintSender
from registry.retry import until_reachable
from registry.store import RegistryStore
from schemas.errors import RejectionCode
from schemas.events import RouteHint
from schemas.models import Action, PromotionError, PromotionEvent, PromotionResult
from streams.kafka.offset_tracker import Record, Slice
from streams.promotions.events import bounded, read_event

log = structlog.get_logger()

_ACTIONS = frozenset(Action)

SendResult = Callable[[PromotionResult, Record, str], Awaitable[None]]
"""Write a result for a record, whose source is the text; returns when the broker has it."""


class Control:
    """Decides slices of `model-promotions`; `attempts` counts the decisions tried, for a watchdog."""

    def __init__(
        self, store: RegistryStore, hints: HintSender, send_result: SendResult, *, max_event_bytes: int
    ) -> None:
        self._store = store
        self._hints = hints
        self._send_result = send_result
        self._max_event_bytes = max_event_bytes
        self.attempts = 0
        # Of every action from the beginning, so that the first decision is seen as an increase.
        self.decided: Counter[tuple[str, str]] = Counter(
            {(action, status): 0 for action in (*Action, "") for status in ("applied", "rejected")}
        )
        """How many events, by action and status; what is no event has no action."""

    async def process(self, handled: Slice) -> None:
        """Decide the events of a slice in their order; returns when the broker has all results."""
        topic, partition = handled.partition
        for record in handled.records:
            result = bounded(await self._result(record))
            # Whoever writes to the topic may make actions up.
            action = result.action if result.action in _ACTIONS else ""
            self.decided[action, result.status] += 1
            log.info(
                "promotion decided",
                model_name=result.model_name,
                action=result.action,
                status=result.status,
                code=result.error.code if result.error else None,
                revision=result.revision,
                actor=result.actor,
                event_id=result.event_id,
            )
            sending = [self._send_result(result, record, f"{topic}/{partition}/{record.offset}")]
            if result.status == "applied":
                sending.append(announce(self._hints, result))
            await asyncio.gather(*sending)

    async def _result(self, record: Record) -> PromotionResult:
        event = read_event(record.value, self._max_event_bytes, datetime.now(UTC))
        if isinstance(event, PromotionResult):
            return event
        try:
            return await self._decide(event)
        except Exception:  # an event that nobody thought of must not stop the topic
            log.exception("internal fault", event_id=event.event_id, offset=record.offset)
            return _fault(event)

    async def _decide(self, event: PromotionEvent) -> PromotionResult:
        async def apply() -> PromotionResult:
            self.attempts += 1
            return await self._store.apply(event)

        return await until_reachable(apply, waiting="promotions")


async def announce(hints: HintSender, result: PromotionResult) -> None:
    """Tell the workers of an applied promotion, if Redis takes it."""
    await hints.send(RouteHint(model_name=result.model_name, revision=result.revision, epoch=result.epoch))


def _fault(event: PromotionEvent) -> PromotionResult:
    return PromotionResult(
        event_id=event.event_id,
        model_name=event.model_name,
        action=event.action,
        status="rejected",
        revision=0,
        route=None,
        error=PromotionError(
            code=RejectionCode.INVALID_EVENT,
            message="this event met a fault inside Headrace and changed nothing; the control worker's log has it",
        ),
        applied_at=datetime.now(UTC),
        actor=event.actor,
    )
