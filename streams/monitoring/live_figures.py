"""The live figures of each second, read from the topic of metrics."""

import asyncio
from collections.abc import AsyncIterator

from schemas.windows import read_delta
from streams.config.settings import Settings
from streams.kafka.tail import open_tail
from streams.monitoring.live_view import LiveFigures, LiveView

_REFRESH_SECONDS = 1.0
# Sums of seconds are not exact; a shorter rest is not waited for.
_SHORTEST_SECONDS = 0.01


async def live_figures(
    settings: Settings, *, seconds: float | None, once: bool
) -> AsyncIterator[LiveFigures]:
    """Yield the figures each second, for `seconds`; with `once` only at the end.

    Raises UnavailableError and SetupError.
    """
    now = asyncio.get_running_loop().time
    async with open_tail(settings, settings.topic_metrics) as tail:
        opened_at = now()
        view = LiveView(opened_at)
        end = opened_at + seconds if seconds is not None else float("inf")
        next_at = end if once else opened_at + _REFRESH_SECONDS
        while True:
            while (wait_seconds := next_at - now()) > 0:
                for record in await tail.next_records(wait_ms=max(1, int(wait_seconds * 1000))):
                    try:
                        view.add(read_delta(record.value, record.timestamp), now())
                    except ValueError:
                        view.add_unreadable()
            yield view.figures(now())
            if end - next_at < _SHORTEST_SECONDS:
                return
            next_at = min(next_at + _REFRESH_SECONDS, end)
