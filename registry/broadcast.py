"""Sends and receives hints that a route changed, over Redis pub/sub.

A hint makes a worker read the registry now instead of at the next poll. It may be lost, late, repeated or forged, so
a worker takes nothing else from it, and reads the registry whenever its connection to Redis is made again. Each
installation has a channel of its own, `Installation.hint_channel`.

A Redis that hangs keeps its connections open, and pub/sub does not notice. So the listener sends a ping after
`PING_SECONDS` without a message, and counts the connection as lost after `SILENCE_SECONDS`.
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

PING_SECONDS = 1.0
SILENCE_SECONDS = 2.5
RECONNECT_SECONDS = 1.0
MAX_HINT_BYTES = 4096


class HintSender:
    """Publishes hints; `timeout_seconds` bounds each call. Redis may be unavailable at any time."""

    def __init__(
        self,
        redis_url: str,
        *,
        channel: str,
        timeout_seconds: float = 0.5,
        connection_options: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self._redis = _client(redis_url, timeout_seconds, connection_options)
        self._channel = channel
        self._timeout_seconds = timeout_seconds

    async def send(self, hint: RouteHint) -> bool:
        """Publish a hint. False when Redis does not take it; workers then follow by their next poll."""
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await self._redis.publish(self._channel, hint.model_dump_json())
        except (RedisError, OSError, TimeoutError) as error:
            log.warning("hint not sent; workers follow by their next poll", reason=repr(error))
            return False
        return True

    async def close(self) -> None:
        """Close the connection."""
        await self._redis.aclose()


class HintListener:
    """Calls `on_hint` for each hint, and `on_connected` after each connection to Redis."""

    def __init__(
        self,
        redis_url: str,
        *,
        channel: str,
        on_hint: Callable[[RouteHint], None],
        on_connected: Callable[[], None],
        timeout_seconds: float = 0.5,
        connection_options: Mapping[str, Any] = MappingProxyType({}),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._redis = _client(redis_url, timeout_seconds, connection_options)
        self._channel = channel
        self._on_hint = on_hint
        self._on_connected = on_connected
        self._clock = clock
        # True at first, so that a failure of the first connection is logged.
        self._connected = True

    async def run(self) -> None:
        """Listen, and connect again when the connection is lost. Runs until cancelled."""
        try:
            while True:
                try:
                    async with self._redis.pubsub() as subscription:
                        await subscription.subscribe(self._channel)
                        await self._listen(subscription)
                except (RedisError, OSError, TimeoutError) as error:
                    if self._connected:
                        log.warning("hints are not received; the registry is polled", reason=repr(error))
                    self._connected = False
                await asyncio.sleep(RECONNECT_SECONDS * random.uniform(0.5, 1.0))  # noqa: S311  # no secret
        finally:
            await self._redis.aclose()

    async def _listen(self, subscription: Any) -> None:
        """Raises TimeoutError after `SILENCE_SECONDS` without a message, and what the connection raises."""
        received_at = self._clock()
        while True:
            message = await subscription.get_message(timeout=PING_SECONDS)
            now = self._clock()
            if message is None:
                if now - received_at > SILENCE_SECONDS:
                    raise TimeoutError(f"no message for {SILENCE_SECONDS} s")
                await subscription.ping()
                _end_if_cancelled()
                continue
            received_at = now
            if message["type"] == "subscribe":
                log.info("hints are received")
                self._connected = True
                self._on_connected()
            elif message["type"] == "message":
                self._receive(message["data"])

    def _receive(self, data: bytes) -> None:
        hint = read_hint(data)
        if hint is None:
            log.debug("not a hint", size_bytes=len(data))
            return
        self._on_hint(hint)


def read_hint(data: bytes) -> RouteHint | None:
    """PURE. The hint in a message; None when it is none."""
    try:
        return RouteHint.model_validate(read_object(data, MAX_HINT_BYTES))
    except (MalformedRecordError, ValidationError):
        return None


def _end_if_cancelled() -> None:
    """Raise the cancellation that `asyncio.wait_for` of Python 3.11 may swallow; the Redis client uses it."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def _client(redis_url: str, timeout_seconds: float, options: Mapping[str, Any]) -> Redis:
    # The client's own retries would take 37 s against a stopped server.
    return Redis.from_url(
        redis_url,
        # As the cache does: proxies and Redis before version 6 have no other.
        protocol=2,
        retry=Retry(NoBackoff(), 0),
        socket_timeout=timeout_seconds,
        socket_connect_timeout=timeout_seconds,
        **options,
    )
