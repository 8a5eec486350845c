"""Decides promotion events: reads an event, writes its result, and sends a hint to the workers.

Events are decided one at a time, in the topic's order. Each is decided in one transaction of the registry; then the
result is written and the hint is sent. The event is acknowledged when the broker has the result. After a crash in
between, Kafka delivers the event again: the registry returns its first result and changes nothing, and the result
and the hint are sent again. Readers recognise a repeated result by its `event_id`.

A record that is not a valid event gets a result with status `rejected` and a code, so that no record stops the
topic. While PostgreSQL cannot be reached or has no registry, events wait.
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
from streams.kafka.record_source import Headers, source_headers
from streams.promotions.events import read_event

log = structlog.get_logger()

_ACTIONS = frozenset(Action)

SendResult = Callable[[PromotionResult, Record, Headers], Awaitable[None]]
"""Write the result for a record, with the headers that name it; returns when the broker has it."""


class Control:
    """Decides slices of `model-promotions`; `attempts` counts all attempts at a decision, for the watchdog."""

    def __init__(
        self, store: RegistryStore, hints: HintSender, send_result: SendResult, *, max_event_bytes: int
    ) -> None:
        self._store = store
        self._hints = hints
        self._send_result = send_result
        self._max_event_bytes = max_event_bytes
        self.attempts = 0
        # All combinations start at 0, so that Prometheus sees the first decision as an increase.
        self.decided: Counter[tuple[str, str]] = Counter(
            {(action, status): 0 for action in (*Action, "") for status in ("applied", "rejected")}
        )
        """The number of events by action and status; the action is "" for a record that is not a valid event."""

    async def process(self, handled: Slice) -> None:
        """Decide the events of a slice in their order; returns when the broker has all results."""
        for record in handled.records:
            result = await self._result(record)
            # A rejected event may name any action; it must not create a metric label.
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
            source = source_headers(handled.partition, record.offset, handled.topic_id)
            sending = [self._send_result(result, record, source)]
            if result.status == "applied":
                sending.append(announce(self._hints, result))
            await asyncio.gather(*sending)

    async def _result(self, record: Record) -> PromotionResult:
        event = read_event(record.value, self._max_event_bytes, datetime.now(UTC))
        if isinstance(event, PromotionResult):
            return event
        try:
            return await self._decide(event)
        except Exception:  # an unforeseen event must not stop the topic
            log.exception("internal fault", event_id=event.event_id, offset=record.offset)
            return _fault(event)

    async def _decide(self, event: PromotionEvent) -> PromotionResult:
        async def apply() -> PromotionResult:
            self.attempts += 1
            return await self._store.apply(event)

        return await until_reachable(apply, waiting="promotions", retry_faults=False)


async def announce(hints: HintSender, result: PromotionResult) -> None:
    """Send the hint of an applied promotion to the workers; a failure is only logged."""
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
            message="a fault inside Headrace prevented the decision and nothing changed; see the control worker's log",
        ),
        applied_at=datetime.now(UTC),
        actor=event.actor,
    )
