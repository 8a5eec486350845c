"""The operator: promotes v2 and rolls it back in turns, and sees when every worker follows."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Self

from registry.heartbeats import Heartbeats
from registry.store import RegistryStore
from schemas.models import PromotionEvent, PromotionResult
from streams.clients.promotion_client import PromotionClient, apply_directly, send_hint
from streams.config.settings import Settings
from tests.support.promotions.events import event
from tests.support.stack.command import headrace
from tests.support.worker.registry_waits import live_heartbeats

from .answers import WrongAnswerError
from .rollback_figures import Change
from .workload import MODEL_NAME

_CONFIRM_SECONDS = 120.0
# Between two looks at the heartbeats; so much later at most is a confirmation seen.
_LOOK_SECONDS = 0.005

Act = Callable[[PromotionEvent], Awaitable[tuple[PromotionResult, str]]]
"""Has an event decided, one way or another; the result, and by what it came."""


def by_client(client: PromotionClient) -> Act:
    """By a client that is connected."""

    async def act(wanted: PromotionEvent) -> tuple[PromotionResult, str]:
        decided = await client.decide(wanted)
        return decided.result, decided.via

    return act


def directly(settings: Settings) -> Act:
    """Without Kafka."""

    async def act(wanted: PromotionEvent) -> tuple[PromotionResult, str]:
        result = await apply_directly(settings, wanted)
        await send_hint(settings, result)
        return result, "postgresql"

    return act


def by_command(settings: Settings) -> Act:
    """By `headrace promote` or `headrace rollback`, each a process of its own."""

    async def act(wanted: PromotionEvent) -> tuple[PromotionResult, str]:
        version = [] if wanted.version is None else [wanted.version]
        ended = await headrace(wanted.action, wanted.model_name, *version, "--json", settings=settings)
        if ended.code != 0:
            raise WrongAnswerError(f"headrace {wanted.action} ends with {ended.code}: {ended.stderr}")
        document = ended.documents[-1]
        via = document.pop("via")
        return PromotionResult.model_validate(document, strict=False), via

    return act


class Operator:
    """Knows which version is in production; `workers` is how many heartbeats there have to be."""

    def __init__(self, settings: Settings, workers: int) -> None:
        self.changes: list[Change] = []
        self._settings = settings
        self._workers = workers
        self._on_v2 = True
        self._epoch = 0
        self._store: RegistryStore
        self._heartbeats: Heartbeats

    async def __aenter__(self) -> Self:
        self._store = await RegistryStore.connect(self._settings.postgres_dsn.get_secret_value())
        self._heartbeats = Heartbeats(self._store.database)
        self._epoch = await self._store.epoch()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._store.close()

    async def change(self, scenario: str, act: Act) -> Change:
        """Have v2 rolled back, or promoted after that; returns when every live worker answers by the result."""
        action, version, named = (
            ("rollback", "v1", {}) if self._on_v2 else ("promote", "v2", {"version": "v2"})
        )
        wanted = event(action, MODEL_NAME, **named)
        # The next one, because only this operator changes anything.
        epoch = self._epoch + 1
        called = time.time()
        confirming = asyncio.create_task(self._confirmed(epoch))
        try:
            result, via = await act(wanted)
            replied = time.time()
            if result.status != "applied" or result.epoch != epoch:
                raise WrongAnswerError(f"{action} is {result.status} at epoch {result.epoch}: {result.error}")
            confirmed = await confirming
        finally:
            confirming.cancel()
            await asyncio.gather(confirming, return_exceptions=True)
        self._epoch, self._on_v2 = epoch, not self._on_v2
        change = Change(
            scenario,
            version,
            result.revision,
            epoch,
            via,
            called_ms=called * 1000,
            decided_ms=result.applied_at.timestamp() * 1000,
            replied_ms=replied * 1000,
            confirmed_ms=confirmed * 1000,
        )
        self.changes.append(change)
        return change

    async def _confirmed(self, epoch: int) -> float:
        """The Unix time at which the heartbeats of all workers are seen to serve an epoch."""
        try:
            async with asyncio.timeout(_CONFIRM_SECONDS):
                while True:
                    heartbeats = await live_heartbeats(self._heartbeats)
                    if len(heartbeats) == self._workers and all(
                        heartbeat.serves(MODEL_NAME, epoch) for heartbeat in heartbeats
                    ):
                        return time.time()
                    await asyncio.sleep(_LOOK_SECONDS)
        except TimeoutError:
            raise WrongAnswerError(f"not every worker serves epoch {epoch}: {heartbeats}") from None
