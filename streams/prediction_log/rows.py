"""PURE. Converts a record of `predict-responses` to a row of the prediction log."""

import hmac
from collections.abc import Callable
from datetime import UTC, date, datetime
from functools import lru_cache
from typing import Annotated

import msgspec

from registry.logged_predictions import LoggedPrediction
from streams.kafka.offset_tracker import Record
from streams.kafka.record_source import SOURCE

_LARGEST_INT, _LARGEST_BIGINT = 2**31 - 1, 2**63 - 1
_LONGEST_TOPIC_NAME, _LONGEST_DIGEST = 249, 128
_LARGEST_TIME_MS = 253_402_300_799_999
_DIGEST = "headrace-input-digest"
_NUL = "\0"
# The hashes of this many users are cached; computing one costs as much as decoding a response.
_REMEMBERED_HASHES = 65_536
_ABSENT = msgspec.Raw()


class _Error(msgspec.Struct, gc=False):
    code: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]


class _Response(msgspec.Struct, gc=False):
    """The fields of a response that are logged; other fields are ignored."""

    request_id: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    model_name: Annotated[str, msgspec.Meta(max_length=63)]
    model_version: Annotated[str, msgspec.Meta(max_length=64)]
    user_id: Annotated[str, msgspec.Meta(max_length=256)]
    latency_ms: Annotated[float, msgspec.Meta(ge=0)]
    cached: bool
    revision: Annotated[int, msgspec.Meta(ge=0, le=_LARGEST_BIGINT)]
    stale: bool
    # Workers of an earlier release do not send it.
    fallback: bool = False
    predictions: msgspec.Raw = _ABSENT
    error: _Error | None = None


_decode = msgspec.json.Decoder(_Response).decode


class RowReader:
    """Makes rows; `name_user` maps a user id to what is stored of it."""

    def __init__(self, name_user: Callable[[str], str], *, keeps_predictions: bool) -> None:
        self._name_user = name_user
        self._keeps_predictions = keeps_predictions

    def row(self, record: Record) -> LoggedPrediction:
        """The row of a record; raises ValueError with the reason when it is not a response."""
        if record.value is None:
            raise ValueError("it is empty")
        try:
            response = _decode(record.value)
        except RecursionError:
            raise ValueError("it is nested too deeply") from None
        predictions, error = response.predictions, response.error
        has_predictions = predictions is not _ABSENT
        if has_predictions is (error is not None):
            raise ValueError("it has both predictions and an error, or neither")
        source = digest = None
        for name, value in record.headers:
            if name == SOURCE:
                source = value
            elif name == _DIGEST:
                digest = value
        topic, partition, offset = _read_source(source)
        responded_at, day = _moment(record.timestamp)
        row = LoggedPrediction(
            responded_at,
            offset,
            response.revision,
            response.latency_ms,
            partition,
            day,
            response.cached,
            response.fallback,
            response.stale,
            topic,
            response.request_id,
            response.model_name,
            response.model_version,
            self._name_user(response.user_id),
            None if digest is None else _read_digest(digest),
            None if error is None else error.code,
            bytes(predictions).decode() if self._keeps_predictions and has_predictions else None,
        )
        # JSON strings may contain NUL, which PostgreSQL's text cannot store.
        return _without_nul(row) if b"\\u0000" in record.value else row


def hashed_by(key: bytes) -> Callable[[str], str]:
    """A function that maps a user id to its HMAC-SHA-256 in hexadecimal, and the empty id to itself."""

    @lru_cache(_REMEMBERED_HASHES)
    def hashed(user_id: str) -> str:
        return hmac.digest(key, user_id.encode(), "sha256").hex() if user_id else ""

    return hashed


# Cached: a slice has few distinct times, and usually one topic and partition.
@lru_cache(1024)
def _moment(timestamp_ms: int) -> tuple[datetime, date]:
    """A Kafka timestamp, and its day in UTC."""
    if not 0 <= timestamp_ms <= _LARGEST_TIME_MS:
        raise ValueError("its timestamp is out of range")
    moment = datetime.fromtimestamp(timestamp_ms // 1000, UTC).replace(microsecond=timestamp_ms % 1000 * 1000)
    return moment, moment.date()


def _read_source(header: bytes | None) -> tuple[str, int, int]:
    """Parse TOPIC/PARTITION/OFFSET; topic names have no slash."""
    try:
        place, _, offset_text = (header or b"").rpartition(b"/")
        topic, partition = _read_place(place)
        offset = int(offset_text)
    except ValueError:
        offset = -1
    if not 0 <= offset <= _LARGEST_BIGINT:
        raise ValueError("its header headrace-source is not TOPIC/PARTITION/OFFSET")
    return topic, partition, offset


@lru_cache(1024)
def _read_place(text: bytes) -> tuple[str, int]:
    topic, partition_text = text.decode("ascii").split("/")
    partition = int(partition_text)
    if not (0 < len(topic) <= _LONGEST_TOPIC_NAME and topic.isprintable() and 0 <= partition <= _LARGEST_INT):
        raise ValueError("not TOPIC/PARTITION")
    return topic, partition


def _read_digest(header: bytes) -> str:
    if len(header) > _LONGEST_DIGEST or not header.isalnum():
        raise ValueError("its header headrace-input-digest is not a digest")
    return header.decode("ascii")


def _without_nul(row: LoggedPrediction) -> LoggedPrediction:
    """The row with U+FFFD in place of NUL; predictions are JSON, where NUL is escaped."""
    return LoggedPrediction._make(
        value.replace(_NUL, "\ufffd") if isinstance(value, str) else value for value in row
    )
