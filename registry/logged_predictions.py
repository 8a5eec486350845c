"""PURE: a row of the prediction log, and which rows to ask for before some are added."""

from collections.abc import Sequence
from datetime import date, datetime
from itertools import pairwise
from typing import NamedTuple

# Offsets farther apart get a query each: one range over both would return rows that nobody asked for.
MAX_GAP_OFFSETS = 5000


class LoggedPrediction(NamedTuple):
    """A row without the time at which it is written. Texts hold no NUL."""

    responded_at: datetime
    source_offset: int
    revision: int
    latency_ms: float
    source_partition: int
    day: date
    cached: bool
    fallback: bool
    stale: bool
    source_topic: str
    request_id: str
    model_name: str
    model_version: str
    user_id: str
    input_digest: str | None
    error_code: str | None
    predictions: str | None
    """JSON."""

    @property
    def key(self) -> "RequestKey":
        """The same for every response to one request."""
        return self.source_topic, self.source_partition, self.source_offset, self.request_id


RequestKey = tuple[str, int, int, str]
"""A request's topic, partition and offset, and its id. All responses to one request have the same key."""


class OffsetRange(NamedTuple):
    """The requests of one partition from offset `first` to `last`, both included."""

    topic: str
    partition: int
    first: int
    last: int


def offset_ranges(keys: Sequence[RequestKey]) -> list[OffsetRange]:
    """The ranges that cover these keys, sorted and at least one, without a gap over `MAX_GAP_OFFSETS`."""
    ranges = []
    start = keys[0]
    for before, after in pairwise(keys):
        if after[2] - before[2] > MAX_GAP_OFFSETS or after[:2] != before[:2]:
            ranges.append(OffsetRange(*start[:3], before[2]))
            start = after
    return [*ranges, OffsetRange(*start[:3], keys[-1][2])]
