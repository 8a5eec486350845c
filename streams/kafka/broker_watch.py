# ruff: noqa: SLF001  # the metadata update of a client has a private name only
"""Says once that Kafka or a topic is lost, and once that it is in use again.

aiokafka writes a line for each attempt of each of its loops: hundreds a second while the broker is away. Here these
lines are left out: those about a broker that cannot be reached always, all others while no broker can be reached, and
else all but one of each kind in `REPEAT_SECONDS`. Log level debug shows them all.

`tests/contract/test_pinned_libraries.py` holds the private names that this module uses.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import structlog
from aiokafka.errors import (
    GroupCoordinatorNotAvailableError,
    GroupLoadInProgressError,
    KafkaConnectionError,
    NodeNotReadyError,
    NotCoordinatorForGroupError,
    RequestTimedOutError,
)

from streams.process.logs import CHATTY

# Not `__name__`, which Faust's services may log under: it stays in the log.
log = structlog.get_logger("streams.broker")

REPEAT_SECONDS = 60.0
LOOK_AGAIN_SECONDS = 0.5
LIBRARIES = tuple(name for name in CHATTY if name != "httpx")
"""The loggers of the clients."""

# Lines with one of these say that a broker, or the coordinator of a group, is not reached now.
_NOT_REACHED = (
    GroupCoordinatorNotAvailableError,
    GroupLoadInProgressError,
    KafkaConnectionError,
    NodeNotReadyError,
    NotCoordinatorForGroupError,
    RequestTimedOutError,
    OSError,
    asyncio.TimeoutError,
)
# Lines that follow from them and have no exception.
_FOLLOWING = (
    "Unable to update metadata from %s",
    "Marking the coordinator dead (node %s)for group %s.",
    "Heartbeat failed for group %s: coordinator (node %s) is either not started or not valid",
    "Heartbeat session expired - marking coordinator dead",
    "Topic %s not found in cluster metadata",
    "Topic %s is not available during auto-create initialization",
)


class RepeatLimit:
    """PURE. Which lines are written: one of each kind in `seconds`."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._written_at: dict[object, float] = {}
        self._left_out: dict[object, int] = {}

    def admit(self, kind: object, now: float) -> int | None:
        """How many lines of the kind were left out since the last one; None when this one is left out too."""
        written_at = self._written_at.get(kind)
        if written_at is not None and now - written_at < self._seconds:
            self._left_out[kind] = self._left_out.get(kind, 0) + 1
            return None
        self._written_at[kind] = now
        return self._left_out.pop(kind, 0)


class BrokerWatch(logging.Filter):
    """Watches the clients of a process; as a filter it keeps repeated lines of the libraries from the log."""

    def __init__(self, bootstrap: str, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._bootstrap = bootstrap
        self._clock = clock
        self._limit = RepeatLimit(REPEAT_SECONDS)
        self._cut_off: set[object] = set()
        """The clients that reach no broker."""
        self._to_look_again: set[object] = set()
        """The clients whose next look is scheduled."""
        self._lost: dict[str, float] = {}
        """Since when a topic is lost, or Kafka, which is "" here."""
        self._reason = ""

    def follow(self, client: Any) -> None:
        """Watch an aiokafka client: each of its metadata updates tells what it reaches."""
        update = client._metadata_update

        async def watched(cluster: Any, topics: Any) -> bool:
            is_reached: bool = await update(cluster, topics)
            missing = [] if not is_reached else [topic for topic in topics if _is_missing(cluster, topic)]
            self.found(
                client, is_reached=is_reached, topics={topic: topic not in missing for topic in topics}
            )
            if (not is_reached or missing) and client not in self._to_look_again:
                # Otherwise aiokafka may ask again after `metadata_max_age_ms` only. A timer for each update would
                # multiply the updates: aiokafka makes some of its own.
                self._to_look_again.add(client)
                asyncio.get_running_loop().call_later(LOOK_AGAIN_SECONDS, self._look_again, client)
            return is_reached

        client._metadata_update = watched

    def _look_again(self, client: Any) -> None:
        self._to_look_again.discard(client)
        # None: the client is closed.
        if client._sync_task is not None:
            client.force_metadata_update()

    def found(self, client: object, *, is_reached: bool, topics: Mapping[str, bool]) -> None:
        """Note whether a client reaches a broker, and which topics the broker has."""
        if is_reached:
            self._cut_off.discard(client)
            for topic, is_there in topics.items():
                self._note(topic, is_lost=not is_there)
        else:
            self._cut_off.add(client)
        self._note("", is_lost=bool(self._cut_off))

    def _note(self, topic: str, *, is_lost: bool) -> None:
        if is_lost == (topic in self._lost):
            return
        if is_lost:
            self._lost[topic] = self._clock()
            if topic:
                log.warning("topic lost", topic=topic)
            else:
                log.warning("Kafka lost", bootstrap=self._bootstrap, reason=self._reason)
        else:
            lost_seconds = round(self._clock() - self._lost.pop(topic), 1)
            if topic:
                log.warning("topic in use again", topic=topic, lost_seconds=lost_seconds)
            else:
                log.warning("Kafka in use again", bootstrap=self._bootstrap, lost_seconds=lost_seconds)

    @contextmanager
    def filtering(self) -> Iterator[None]:
        """Filter what the handlers of this process write, while the block runs."""
        handlers = logging.getLogger().handlers
        for handler in handlers:
            handler.addFilter(self)
        try:
            yield
        finally:
            for handler in handlers:
                handler.removeFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a line is written."""
        if (
            not record.name.startswith(LIBRARIES)
            or record.levelno > logging.ERROR
            or logging.getLogger(record.name).isEnabledFor(logging.DEBUG)
        ):
            return True
        if _is_about_reaching(record):
            self._reason = record.getMessage()
            return False
        if "" in self._lost:
            return False
        left_out = self._limit.admit((record.name, record.lineno), self._clock())
        if left_out:
            record.left_out = left_out
        return left_out is not None


def _is_missing(cluster: Any, topic: str) -> bool:
    return cluster.partitions_for_topic(topic) is None and topic not in cluster.unauthorized_topics


def _is_about_reaching(record: logging.LogRecord) -> bool:
    arguments = record.args if isinstance(record.args, tuple) else ()
    return record.msg in _FOLLOWING or any(
        isinstance(each, _NOT_REACHED) or (isinstance(each, type) and issubclass(each, _NOT_REACHED))
        for each in arguments
    )
