"""Steps over records that a role cannot process: a dead letter with their place and the reason, and a log line."""

from collections import Counter
from collections.abc import Awaitable, Callable

import structlog

from schemas.errors import (
    AbandonedRecordError,
    InvalidRequestError,
    SetupError,
    SteppedOverError,
    UnreadableBatchError,
)
from streams.kafka.attempt_ledger import ATTEMPT_LIMIT
from streams.kafka.batch_parsing import UnreadableBatch
from streams.kafka.offset_tracker import Partition, Slice
from streams.kafka.record_source import Headers, source_headers

log = structlog.get_logger()

MAX_REASON_BYTES = 1024


class StepOver:
    """Steps over slices; `counts` has the number of dead letters by their code.

    `send` writes a dead letter that has these headers, no key and no value, and returns when the broker has it. It
    raises the errors of `kafka_errors`.
    """

    def __init__(self, send: Callable[[Headers], Awaitable[None]]) -> None:
        self._send = send
        # Every code starts at 0, so that Prometheus sees the first one as an increase.
        self.counts: Counter[str] = Counter({UnreadableBatchError.code: 0, AbandonedRecordError.code: 0})

    async def unreadable(self, handled: Slice, batch: UnreadableBatch) -> None:
        """Step over a batch that cannot be read; raises BrokerUnavailableError."""
        await self._step_over(handled, batch.first_offset, UnreadableBatchError(batch.reason))

    async def abandoned(self, handled: Slice) -> None:
        """Step over the record of a slice that ended too many processes; raises BrokerUnavailableError."""
        error = AbandonedRecordError(f"{ATTEMPT_LIMIT} processes ended while this record was in progress")
        await self._step_over(handled, handled.records[0].offset, error)

    async def _step_over(self, handled: Slice, first_offset: int, error: SteppedOverError) -> None:
        partition, last_offset = handled.partition, handled.records[-1].offset
        attempts = min(handled.attempt, ATTEMPT_LIMIT)
        log.error(
            "records stepped over",
            topic=partition.topic,
            partition=partition.partition,
            first_offset=first_offset,
            last_offset=last_offset,
            code=error.code,
            reason=str(error),
        )
        self.counts[error.code] += 1
        try:
            place = source_headers(partition, first_offset, handled.topic_id)
            await self._send(place + reason_headers(partition, first_offset, last_offset, error, attempts))
        except (SetupError, InvalidRequestError) as refused:
            # Without its topic a dead letter must not stop the records behind it; the log has its content.
            log.error("dead letter refused", topic=partition.topic, reason=str(refused))


def reason_headers(
    partition: Partition, first_offset: int, last_offset: int, error: SteppedOverError, attempts: int
) -> Headers:
    """PURE. What a dead letter that stands for the records from `first_offset` to `last_offset` has beside its source."""
    reason = str(error).encode()[:MAX_REASON_BYTES]
    return [
        ("headrace-last-offset", str(last_offset).encode()),
        ("headrace-error-code", error.code.encode()),
        ("headrace-error-message", reason),
        ("headrace-attempts", str(attempts).encode()),
        ("headrace-omitted", b"key, value, headers"),
        ("__connect.errors.topic", partition.topic.encode()),
        ("__connect.errors.partition", str(partition.partition).encode()),
        ("__connect.errors.offset", str(first_offset).encode()),
        ("__connect.errors.exception.class.name", type(error).__name__.encode()),
        ("__connect.errors.exception.message", reason),
    ]
