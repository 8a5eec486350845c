"""streams/prediction_log/rows.py: which fields of a response are kept, and what is not a response."""

import hashlib
import hmac
from datetime import UTC, date, datetime, timedelta
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from registry.logged_predictions import LoggedPrediction
from schemas.events import PredictResponse
from streams.config.settings import Settings
from streams.prediction_log.rows import RowReader, hashed_by
from streams.prediction_log.writer import kept_days
from tests.support.models.served_versions import record_of
from tests.support.worker.prediction_rows import DIGEST, headers_of, response

AT = datetime(2026, 3, 1, 23, 59, 59, 999_000, tzinfo=UTC)
AT_MS = int(AT.timestamp() * 1000)
SOURCE = "predict-requests/3/17"


def row_of(document: Any, *, predictions: bool = False, hash_key: bytes | None = None, **fields: Any) -> Any:
    fields = {"timestamp": AT_MS, "headers": headers_of(SOURCE)} | fields
    value = document if isinstance(document, bytes) else orjson.dumps(document)
    name_user = str if hash_key is None else hashed_by(hash_key)
    return RowReader(name_user, keeps_predictions=predictions).row(record_of(value, **fields))


def test_a_row_has_what_the_response_says() -> None:
    """All but the predictions."""
    assert row_of(response(7)) == LoggedPrediction(
        responded_at=AT,
        source_offset=17,
        revision=3,
        latency_ms=2.5,
        source_partition=3,
        day=date(2026, 3, 1),
        cached=False,
        fallback=False,
        stale=False,
        source_topic="predict-requests",
        request_id="r7",
        model_name="m",
        model_version="v1",
        user_id="u7",
        input_digest=DIGEST,
        error_code=None,
        predictions=None,
    )


def test_an_error_has_its_code() -> None:
    """Only the digest of the input is kept; an invalid input has none."""
    error = {"code": "INVALID_INPUT", "message": "secret input", "details": [{"path": "/x", "message": "3"}]}
    row = row_of(
        response(predictions=None, error=error),
        predictions=True,
        headers=[("headrace-source", SOURCE.encode())],
    )
    assert (row.error_code, row.input_digest, row.predictions) == ("INVALID_INPUT", None, None)
    assert "secret" not in repr(row)


def test_predictions_are_kept_as_written() -> None:
    """Byte for byte, also `null`, which a model may predict."""
    body = orjson.dumps(response())[:-1].replace(b'"predictions":[0,1.5],', b"")
    for predictions in (b'{"a": 1.0, "\\u0000": [1e3]}', b"null", b'"\xc3\xa9"'):
        row = row_of(body + b',"predictions":' + predictions + b"}", predictions=True)
        assert row.predictions == predictions.decode()


def test_responses_of_older_and_newer_workers_are_read() -> None:
    """Earlier releases send no `fallback`, later ones send unknown fields."""
    assert row_of(response(fallback=None)).fallback is False
    assert row_of(response(fallback=True, unheard_of={"x": [1]})).fallback is True


def test_a_character_that_postgresql_has_not_is_replaced() -> None:
    """User ids may contain it."""
    assert row_of(response(user_id="a\0b")).user_id == "a\ufffdb"


def test_a_hashed_user_is_told_by_who_has_the_key() -> None:
    """HMAC-SHA-256 in hexadecimal; an empty user id stays empty."""
    key = b"k" * 32
    assert (
        row_of(response(user_id="ü1"), hash_key=key).user_id
        == hmac.new(key, "ü1".encode(), hashlib.sha256).hexdigest()
    )
    assert row_of(response(user_id=""), hash_key=key).user_id == ""


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"{",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        response(request_id=None),
        response(request_id=""),
        response(request_id="r" * 129),
        response(user_id="u" * 257),
        response(revision=2**63),
        response(revision=-1),
        response(latency_ms=-1),
        response(cached=0),
        response(predictions=None),
        response(error={"code": "INTERNAL"}),
        response(predictions=None, error={"code": 3}),
    ],
)
def test_what_is_no_response_is_refused(value: Any) -> None:
    """With a ValueError, whatever is wrong."""
    reader = RowReader(str, keeps_predictions=True)
    encoded = value if value is None or isinstance(value, bytes) else orjson.dumps(value)
    with pytest.raises(ValueError):
        reader.row(record_of(encoded, timestamp=AT_MS, headers=headers_of(SOURCE)))


@pytest.mark.parametrize(
    "source", ["", "t/1", "t/1/2/3", "/1/2", "t/x/2", "t/1/-2", f"t/{2**31}/2", f"t/1/{2**63}", "t\0/1/2"]
)
def test_a_response_that_names_no_request_is_refused(source: str) -> None:
    """Without it a repeat cannot be recognised."""
    with pytest.raises(ValueError, match="headrace-source"):
        row_of(response(), headers=headers_of(source))


@pytest.mark.parametrize("digest", ["", "x y", "a" * 129, "\0"])
def test_a_digest_that_is_none_is_refused(digest: str) -> None:
    with pytest.raises(ValueError, match="digest"):
        row_of(response(), headers=headers_of(SOURCE, digest))


@pytest.mark.parametrize("timestamp", [-1, 2**62])
def test_a_time_that_is_none_is_refused(timestamp: int) -> None:
    with pytest.raises(ValueError, match="timestamp"):
        row_of(response(), timestamp=timestamp)


@given(st.builds(dict, request_id=st.text(min_size=1, max_size=128), user_id=st.text(max_size=256)))
def test_every_response_of_the_contract_is_read(names: dict[str, Any]) -> None:
    """Every response that the contract allows has a row that PostgreSQL can store."""
    try:
        PredictResponse.model_validate(response(**names))
    except ValueError:
        return
    row = row_of(response(**names))
    assert row.request_id == names["request_id"]
    assert row.user_id == names["user_id"].replace("\0", "\ufffd")


def test_kept_days_are_those_before_today_and_some_ahead() -> None:
    today = AT.date()
    assert kept_days(AT, 30) == (today - timedelta(days=30), today + timedelta(days=2))


@pytest.mark.parametrize("key", [None, "too short"])
def test_hashes_want_a_key(key: str | None) -> None:
    """A long random one; and no message quotes it."""
    with pytest.raises(ValidationError, match="HEADRACE_PREDICTION_LOG_HASH_KEY") as refused:
        Settings.model_validate({"prediction_log_user_ids": "hashed", "prediction_log_hash_key": key})
    assert "too short" not in refused.value.errors(include_input=False)[0]["msg"]
    Settings.model_validate({"prediction_log_user_ids": "hashed", "prediction_log_hash_key": "k" * 32})
