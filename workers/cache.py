"""The prediction cache: a Redis that may fail at any time and is never waited for twice.

Keys and values are the caller's bytes: `headrace:pred:{model}:{version}:{digest}` holds the
predictions as JSON, without any prefix, so that other programs can read them. What is under a key
may have been put there by anybody; the caller checks what it answers with.

No call raises. When Redis is down or hangs, one call waits one timeout; then the breaker opens,
ends every call that waits with it, and predictions go on without the cache. From then on at most
one read a second is repeated in the background, where nobody waits for it; when it is answered the
cache is in use again. Redis that refuses only writes (out of memory, a replica) is still read.

For a single Redis or the primary behind one address; Redis Cluster is not supported, since one
MGET asks for keys of many slots.
"""

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import suppress
from hashlib import sha1
from types import MappingProxyType
from typing import Any, TypeVar

import hiredis
import structlog
from redis.asyncio.connection import ConnectionPool, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError, ResponseError

from schemas.errors import CacheUnavailableError, SetupError
from workers.calls.breaker import CLOSED, BreakerConfig, Phase, admit, failed, succeeded

log = structlog.get_logger()

Answer = TypeVar("Answer")

KEYS_PER_WRITE = 1000
# A value beyond this costs Redis and the loop more than it saves, and would starve the others.
MAX_VALUE_BYTES = 64 * 1024
_BREAKER = BreakerConfig(failures=1, open_seconds=1.0)

_WRITE_SCRIPT = b"""\
local ttl = ARGV[#KEYS + 1]
for i = 1, #KEYS do redis.call('SET', KEYS[i], ARGV[i], 'EX', ttl) end
"""
# Redis names scripts by SHA-1; nothing rests on its strength.
_WRITE_SCRIPT_SHA1 = sha1(_WRITE_SCRIPT, usedforsecurity=False).hexdigest().encode()


class PredictionCache:
    """Reads and writes many predictions at once; `timeout_seconds` bounds each call.

    `connection_options` are those of redis-py's connections beside the URL, for TLS. Raises
    SetupError for a URL that cannot be used.
    """

    def __init__(
        self,
        redis_url: str,
        *,
        timeout_seconds: float = 0.5,
        connection_options: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self._pool = _pool(redis_url, timeout_seconds, connection_options)
        self._timeout_seconds = timeout_seconds
        self._breaker = CLOSED
        self._lost_at = 0.0
        self._waiting: set[asyncio.Timeout] = set()
        self._probe: asyncio.Task[None] | None = None
        self._has_msetex = True
        self._takes_writes = True

    @property
    def available(self) -> bool:
        """Is Redis answering, as far as the last calls tell?"""
        return self._breaker.phase is Phase.CLOSED

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The value of each key, in order; None where there is none or Redis does not answer."""
        if not keys:
            return []
        self._breaker, admitted = admit(self._breaker, _now(), _BREAKER)
        if self.available:
            with suppress(CacheUnavailableError):
                return await self._guarded(self._read(keys))
        elif admitted and (self._probe is None or self._probe.done()):
            # One at a time, also where the timeout is longer than the pause between two.
            self._probe = asyncio.create_task(self._try_again(keys))
        return [None] * len(keys)

    async def set_many(self, items: Sequence[tuple[bytes, bytes]], ttl_seconds: int) -> None:
        """Keep each (key, value) for `ttl_seconds`, at least 1; values over 64 KiB are left out."""
        fitting = [item for item in items if len(item[1]) <= MAX_VALUE_BYTES]
        for start in range(0, len(fitting), KEYS_PER_WRITE):
            if not self.available:
                return
            chunk = fitting[start : start + KEYS_PER_WRITE]
            with suppress(CacheUnavailableError):
                self._note(await self._guarded(self._write(chunk, b"%d" % ttl_seconds)))

    async def close(self) -> None:
        """Close the connections. Idempotent."""
        if self._probe is not None:
            self._probe.cancel()
            await asyncio.wait([self._probe])
        try:
            await self._pool.aclose()
        except (RedisError, OSError) as error:
            log.debug("prediction cache not closed cleanly", reason=str(error))

    async def _try_again(self, keys: Sequence[bytes]) -> None:
        with suppress(CacheUnavailableError):
            await self._guarded(self._read(keys))

    async def _guarded(self, call: Awaitable[Answer]) -> Answer:
        """Await a call within the timeout and tell the breaker; raises CacheUnavailableError."""
        try:
            async with asyncio.timeout(self._timeout_seconds) as timeout:
                self._waiting.add(timeout)
                try:
                    answer = await call
                finally:
                    self._waiting.discard(timeout)
        except (RedisError, OSError) as error:
            reason = str(error) or f"no answer within {self._timeout_seconds} s"
            self._lost(reason)
            raise CacheUnavailableError(reason) from error
        if not self.available:
            self._found()
        return answer

    def _lost(self, reason: str) -> None:
        was_available = self.available
        self._breaker = failed(self._breaker, _now(), _BREAKER)
        if not was_available or self.available:
            return
        self._lost_at = _now()
        log.warning("prediction cache lost; predictions go on without it", reason=reason)
        for timeout in self._waiting:
            # Those that expired in this same moment are on their way out already.
            if not timeout.expired():
                timeout.reschedule(self._lost_at)

    def _found(self) -> None:
        self._breaker = succeeded(self._breaker)
        if self.available:
            log.info("prediction cache in use again", after_seconds=round(_now() - self._lost_at, 1))

    def _note(self, refusal: str | None) -> None:
        """Log when Redis begins and when it ceases to refuse writes."""
        if (refusal is None) == self._takes_writes:
            return
        self._takes_writes = refusal is None
        if refusal is None:
            log.info("prediction cache takes writes again")
        else:
            log.warning("prediction cache refuses writes; it is only read", reason=refusal)

    async def _read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        values: list[bytes | None] = await self._command((b"MGET", *keys))
        return values

    async def _write(self, items: Sequence[tuple[bytes, bytes]], ttl: bytes) -> str | None:
        """Write all in one round trip; returns Redis's reason when it refuses."""
        count = b"%d" % len(items)
        try:
            if self._has_msetex:
                pairs = [part for item in items for part in item]
                try:
                    await self._command((b"MSETEX", count, *pairs, b"EX", ttl))
                except ResponseError as error:
                    if not str(error).lower().startswith("unknown command"):
                        raise
                    # Redis before 8.4; a script does the same in the same one round trip.
                    self._has_msetex = False
                else:
                    return None
            arguments = (count, *(key for key, _ in items), *(value for _, value in items), ttl)
            try:
                await self._command((b"EVALSHA", _WRITE_SCRIPT_SHA1, *arguments))
            except NoScriptError:
                await self._command((b"EVAL", _WRITE_SCRIPT, *arguments))
        except ResponseError as error:
            return str(error)
        return None

    async def _command(self, parts: tuple[bytes, ...]) -> Any:
        # A connection of the pool used directly: the client object around it would pack the
        # command in Python, at twice the price of everything else on this path together.
        connection = await self._pool.get_connection()
        try:
            # The stub's tuple has one element; the function takes any number.
            packed = hiredis.pack_command(parts)  # type: ignore[arg-type]
            await connection.send_packed_command(packed, check_health=False)
            return await connection.read_response()
        finally:
            await self._pool.release(connection)


def _pool(redis_url: str, timeout_seconds: float, connection_options: Mapping[str, Any]) -> Any:
    """A pool without retries; raises SetupError for a URL that cannot be used.

    Any, since redis has types for its commands but not for its pool.
    """
    try:
        options: dict[str, Any] = {
            **parse_url(redis_url),
            **connection_options,
            "protocol": 2,
            "decode_responses": False,
            "retry": Retry(NoBackoff(), 0),
            # `_guarded` bounds a call as a whole, the connecting included; a timeout for each step
            # would cost a task each.
            "socket_timeout": None,
            "socket_connect_timeout": timeout_seconds,
        }
        pool: Any = ConnectionPool(**options)
        pool.make_connection()
    except (TypeError, ValueError):
        # The reason is withheld: it may quote a part of the password.
        raise SetupError(
            "the Redis URL cannot be used; write redis://[USER:PASSWORD@]HOST:PORT/DB, rediss:// for TLS, "
            "and percent-encode what is special in USER and PASSWORD"
        ) from None
    return pool


def _now() -> float:
    return asyncio.get_running_loop().time()
