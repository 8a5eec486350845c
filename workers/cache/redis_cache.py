"""Predictions in Redis: many reads or writes in one round trip, and none while Redis is unavailable.

Keys and values are the caller's bytes. In Redis each key begins with the namespace of the installation:
`headrace:{installation}:pred:{model}:{version}:{spec digest}:{input digest}` has a tag of 16 bytes and the
predictions as JSON. Redis is shared: a value that is too large or whose tag is wrong (`sealing.py`) is a
miss, and the prediction that is made for it overwrites it. So are all values of a reply that is too large as a whole
(`bounded_replies.py`), or is none.

No call raises. When Redis is down or hangs, the first call to fail waits one timeout; its failure ends
all other waiting calls, and predictions continue without the cache. Then at most one read a second is
repeated in the background as a probe; an answer puts the cache in use again. A Redis that refuses only
writes (out of memory, a replica) is still read; connections to a replica are made anew. The rules are in `workers/cache/availability.py`.

For a single Redis or the primary behind one address. Redis Cluster is not supported, since one MGET
has keys of many slots.
"""

import asyncio
import math
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import suppress
from hashlib import sha1
from types import MappingProxyType
from typing import Any, TypeVar, cast

import hiredis
import structlog
from redis.asyncio.connection import ConnectionPool, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError, ResponseError

from schemas.errors import CacheUnavailableError, SetupError
from workers.cache.availability import Availability, CacheEvent, CacheState, advance
from workers.cache.bounded_replies import BoundedParser, ReplyTooLargeError
from workers.cache.sealing import Sealer

log = structlog.get_logger()

Answer = TypeVar("Answer")

KEYS_PER_WRITE = 1000
# Larger values cost Redis and the event loop more time than they save, and delay other keys.
MAX_VALUE_BYTES = 64 * 1024
REJECTED_LOG_SECONDS = 60.0
# A Redis that stays a replica costs one connection each second.
RECONNECT_SECONDS = 1.0

_WRITE_SCRIPT = b"""\
local ttl = ARGV[#KEYS + 1]
for i = 1, #KEYS do redis.call('SET', KEYS[i], ARGV[i], 'EX', ttl) end
"""
# Redis identifies scripts by SHA-1; security does not depend on it.
_WRITE_SCRIPT_SHA1 = sha1(_WRITE_SCRIPT, usedforsecurity=False).hexdigest().encode()


class PredictionCache:
    """Reads and writes many predictions at once; `timeout_seconds` bounds each call.

    `namespace` is the beginning of all keys in Redis; `secret` authenticates the values. `connection_options` are further options of redis-py's connections, for TLS. Raises SetupError for an
    invalid URL.
    """

    def __init__(
        self,
        redis_url: str,
        *,
        namespace: bytes,
        secret: bytes,
        timeout_seconds: float = 0.5,
        connection_options: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self._namespace = namespace
        self._sealer = Sealer(secret)
        self.rejected_values = 0
        """The number of values in Redis that no worker of this installation wrote under their key."""
        self._rejected_logged = 0
        self._next_rejected_log_at = -math.inf
        self._next_reconnection_at = -math.inf
        self._pool = _pool(redis_url, timeout_seconds, connection_options)
        self._timeout_seconds = timeout_seconds
        self._state = CacheState()
        self._waiting: set[asyncio.Timeout] = set()
        self._probe: asyncio.Task[None] | None = None
        self._has_msetex = True

    @property
    def available(self) -> bool:
        """True when Redis answered the last calls."""
        return self._state.in_use

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The value of each key, in order; None without a value that is ours, or when Redis is unavailable."""
        if not keys:
            return []
        if self.available:
            with suppress(CacheUnavailableError):
                sealed = await self._guarded(self._read(keys))
                self._advance(CacheEvent.READ_ANSWERED)
                try:
                    values = self._sealer.unseal(keys, sealed, MAX_VALUE_BYTES)
                except (TypeError, ValueError):
                    # Another number of values, or other types.
                    values, sealed = [None] * len(keys), []
                if rejected := values.count(None) - sealed.count(None):
                    self._count_rejected(rejected)
                return values
        # One probe at a time, also when the timeout is longer than the pause between two.
        elif self._probe is None or self._probe.done():
            before = self._state
            self._advance(CacheEvent.PROBE)
            if self._state is not before:
                self._probe = asyncio.create_task(self._run_probe(keys))
        return [None] * len(keys)

    async def set_many(self, items: Sequence[tuple[bytes, bytes]], ttl_seconds: int) -> None:
        """Store each (key, value) for `ttl_seconds`, at least 1; values over 64 KiB are left out."""
        fitting = [item for item in items if len(item[1]) <= MAX_VALUE_BYTES]
        for start in range(0, len(fitting), KEYS_PER_WRITE):
            if not self.available:
                return
            keys, values = zip(*fitting[start : start + KEYS_PER_WRITE], strict=True)
            sealed = cast("list[bytes]", self._sealer.seal(keys, values))
            chunk = list(zip(keys, sealed, strict=True))
            with suppress(CacheUnavailableError):
                refusal = await self._guarded(self._write(chunk, b"%d" % ttl_seconds))
                if refusal is None:
                    self._advance(CacheEvent.WRITE_ACCEPTED)
                else:
                    self._advance(CacheEvent.WRITE_REFUSED, refusal)
                    if "READONLY" in refusal:
                        await self._connect_anew()

    async def close(self) -> None:
        """Close the connections. Idempotent."""
        if self._probe is not None:
            self._probe.cancel()
            await asyncio.wait([self._probe])
        try:
            await self._pool.aclose()
        except (RedisError, OSError) as error:
            log.debug("prediction cache not closed cleanly", reason=str(error))

    async def _connect_anew(self) -> None:
        """Close the idle connections, at most once a second: behind the same address there may be a primary by now."""
        now = _now()
        if now >= self._next_reconnection_at:
            self._next_reconnection_at = now + RECONNECT_SECONDS
            await self._pool.disconnect(inuse_connections=False)

    def _count_rejected(self, count: int) -> None:
        """Count values that are not ours; log the first ones, and then at most one line a minute."""
        self.rejected_values += count
        now = _now()
        if now >= self._next_rejected_log_at:
            log.warning(
                "prediction cache has foreign values; they count as misses",
                values=self.rejected_values - self._rejected_logged,
            )
            self._rejected_logged = self.rejected_values
            self._next_rejected_log_at = now + REJECTED_LOG_SECONDS

    async def _run_probe(self, keys: Sequence[bytes]) -> None:
        with suppress(CacheUnavailableError):
            await self._guarded(self._read(keys))
            self._advance(CacheEvent.READ_ANSWERED)

    async def _guarded(self, call: Awaitable[Answer]) -> Answer:
        """Await a call within the timeout; raises CacheUnavailableError after a failure was recorded."""
        try:
            async with asyncio.timeout(self._timeout_seconds) as timeout:
                self._waiting.add(timeout)
                try:
                    return await call
                finally:
                    self._waiting.discard(timeout)
        except (RedisError, OSError) as error:
            reason = str(error) or f"no answer within {self._timeout_seconds} s"
            self._advance(CacheEvent.NO_ANSWER, reason)
            raise CacheUnavailableError(reason) from error

    def _advance(self, event: CacheEvent, reason: str = "") -> None:
        """Change the state; log a change, and end the waiting calls when Redis is lost."""
        before, now = self._state, _now()
        self._state = advance(before, event, now)
        match before.availability, self._state.availability:
            case ((Availability.READ_WRITE | Availability.READ_ONLY), Availability.UNAVAILABLE):
                log.warning("prediction cache lost; predictions continue without it", reason=reason)
                for timeout in self._waiting:
                    # A timeout that expired at this moment ends its call already.
                    if not timeout.expired():
                        timeout.reschedule(now)
            case Availability.PROBING, Availability.READ_WRITE:
                log.info("prediction cache in use again", after_seconds=round(now - before.lost_at, 1))
            case Availability.READ_WRITE, Availability.READ_ONLY:
                log.warning("prediction cache refuses writes; it is only read", reason=reason)
            case Availability.READ_ONLY, Availability.READ_WRITE:
                log.info("prediction cache accepts writes again")

    async def _read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """What Redis has; no values when it sends too much."""
        values: list[bytes | None] = []
        with suppress(ReplyTooLargeError):
            values = await self._command((b"MGET", *map(self._namespace.__add__, keys)))
        return values

    async def _write(self, items: Sequence[tuple[bytes, bytes]], ttl: bytes) -> str | None:
        """Write all in one round trip; returns Redis's reason for a refusal, else None."""
        count = b"%d" % len(items)
        try:
            if self._has_msetex:
                pairs = [part for key, value in items for part in (self._namespace + key, value)]
                try:
                    await self._command((b"MSETEX", count, *pairs, b"EX", ttl))
                except ResponseError as error:
                    if not str(error).lower().startswith("unknown command"):
                        raise
                    # Redis before 8.4; a script also needs one round trip.
                    self._has_msetex = False
                else:
                    return None
            arguments = (
                count,
                *(self._namespace + key for key, _ in items),
                *(value for _, value in items),
                ttl,
            )
            try:
                await self._command((b"EVALSHA", _WRITE_SCRIPT_SHA1, *arguments))
            except NoScriptError:
                await self._command((b"EVAL", _WRITE_SCRIPT, *arguments))
        except ResponseError as error:
            return str(error)
        return None

    async def _command(self, parts: tuple[bytes, ...]) -> Any:
        # The pool's connection is used directly: redis-py's client would pack the command in Python, which
        # costs twice as much as everything else on this path together.
        connection = await self._pool.get_connection()
        try:
            # The stub's tuple has one element; the function takes any number.
            packed = hiredis.pack_command(parts)  # type: ignore[arg-type]
            await connection.send_packed_command(packed, check_health=False)
            return await connection.read_response()
        finally:
            await self._pool.release(connection)


def _pool(redis_url: str, timeout_seconds: float, connection_options: Mapping[str, Any]) -> Any:
    """A connection pool without retries; raises SetupError for an invalid URL.

    It is Any because redis-py has types for its commands but not for its pool.
    """
    try:
        options: dict[str, Any] = {
            **parse_url(redis_url),
            **connection_options,
            "protocol": 2,
            "parser_class": BoundedParser,
            "decode_responses": False,
            "retry": Retry(NoBackoff(), 0),
            # `_guarded` bounds a call as a whole, including the connection; a timeout for each step
            # would cost a task each.
            "socket_timeout": None,
            "socket_connect_timeout": timeout_seconds,
        }
        pool: Any = ConnectionPool(**options)
        pool.make_connection()
    except (TypeError, ValueError):
        # The reason may quote a part of the password, so it is left out.
        raise SetupError(
            "the Redis URL is invalid; write redis://[USER:PASSWORD@]HOST:PORT/DB, rediss:// for TLS, "
            "and percent-encode special characters in USER and PASSWORD"
        ) from None
    return pool


def _now() -> float:
    return asyncio.get_running_loop().time()
