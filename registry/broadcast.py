"""Hints over Redis pub/sub that a route changed, out and in.

A hint is never the truth: it says that reading the registry is worth while now, instead of at the next
poll. It may be lost, late, repeated or made up by others; so nothing is taken from it but that, and
whoever was not connected for a while reads the registry when it is connected again.

A Redis that hangs keeps its connections, and pub/sub alone never notices. So the listener sends a ping
of its own whenever nothing was heard for `PING_SECONDS`, and takes `SILENCE_SECONDS` for a loss.
"""

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import structlog
from pydantic import ValidationError
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from schemas.errors import MalformedRecordError
from schemas.events import RouteHint
from schemas.wire import read_object

log = structlog.get_logger()

CHANNEL = "headrace:routes"
PING_SECONDS = 1.0
SILENCE_SECONDS = 2.5
RECONNECT_SECONDS = 1.0
MAX_HINT_BYTES = 4096


class HintSender:
    """Publishes hints; `timeout_seconds` bounds each. Redis may be away at any time."""

    def __init__(
        self,
        redis_url: str,
        *,
        timeout_seconds: float = 0.5,
        connection_options: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self._redis = _client(redis_url, timeout_seconds, connection_options)
        self._timeout_seconds = timeout_seconds

    async def send(self, hint: RouteHint) -> bool:
        """Publish a hint; False when Redis does not take it, and workers follow by their next poll."""
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await self._redis.publish(CHANNEL, hint.model_dump_json())
        except (RedisError, OSError, TimeoutError) as error:
            log.warning("hint not sent; workers follow by their next poll", reason=repr(error))
            return False
        return True

    async def close(self) -> None:
        """Close the connection."""
        await self._redis.aclose()


class HintListener:
    """Calls `on_hint` for each hint, and `on_connected` each time that hints can be heard (again)."""

    def __init__(
        self,
        redis_url: str,
        *,
        on_hint: Callable[[RouteHint], None],
        on_connected: Callable[[], None],
        timeout_seconds: float = 0.5,
        connection_options: Mapping[str, Any] = MappingProxyType({}),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._redis = _client(redis_url, timeout_seconds, connection_options)
        self._on_hint = on_hint
        self._on_connected = on_connected
        self._clock = clock
        # As if it had been, so that a first failure is told.
        self._connected = True

    async def run(self) -> None:
        """Listen, and connect again whenever the connection is lost; ends when cancelled."""
        try:
            while True:
                try:
                    async with self._redis.pubsub() as subscription:
                        await subscription.subscribe(CHANNEL)
                        await self._listen(subscription)
                except (RedisError, OSError, TimeoutError) as error:
                    if self._connected:
                        log.warning("hints are not heard; the registry is polled", reason=repr(error))
                    self._connected = False
                await asyncio.sleep(RECONNECT_SECONDS * random.uniform(0.5, 1.0))  # noqa: S311  # no secret
        finally:
            await self._redis.aclose()

    async def _listen(self, subscription: Any) -> None:
        """Raises TimeoutError after a silence, and what the connection raises."""
        heard_at = self._clock()
        while True:
            message = await subscription.get_message(timeout=PING_SECONDS)
            now = self._clock()
            if message is None:
                if now - heard_at > SILENCE_SECONDS:
                    raise TimeoutError(f"nothing heard for {SILENCE_SECONDS} s")
                await subscription.ping()
                _end_if_cancelled()
                continue
            heard_at = now
            if message["type"] == "subscribe":
                log.info("hints are heard")
                self._connected = True
                self._on_connected()
            elif message["type"] == "message":
                self._hear(message["data"])

    def _hear(self, data: bytes) -> None:
        try:
            hint = RouteHint.model_validate(read_object(data, MAX_HINT_BYTES))
        except (MalformedRecordError, ValidationError):
            log.debug("not a hint", size_bytes=len(data))
            return
        self._on_hint(hint)


def _end_if_cancelled() -> None:
    """`asyncio.wait_for` of Python 3.11, by which Redis is written to, may swallow a cancellation."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def _client(redis_url: str, timeout_seconds: float, options: Mapping[str, Any]) -> Redis:
    # Its own retries would go on for 37 s against a server that is stopped.
    return Redis.from_url(
        redis_url,
        retry=Retry(NoBackoff(), 0),
        socket_timeout=timeout_seconds,
        socket_connect_timeout=timeout_seconds,
        **options,
    )
