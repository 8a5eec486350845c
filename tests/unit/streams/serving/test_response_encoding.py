"""streams/serving/response_encoding.py: the rows of responses and dead letters."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import publish
from schemas.errors import AnswerError, BackendFailedError, InvalidInputError, MalformedRecordError
from schemas.events import ErrorDetail, PredictResponse
from streams.kafka.offset_tracker import Partition
from streams.serving.requests import RequestContext
from streams.serving.response_encoding import (
    DEAD_LETTER_HEADERS,
    MAX_CARRIED_BYTES,
    MAX_CARRIED_TOTAL_BYTES,
    MAX_ERROR_HEADER_BYTES,
    ResponseEncoder,
    without_content,
    without_details,
    without_key,
)
from tests.support.models.served_versions import RecordingBackend, record_of, served_version

VERSION = served_version("m", "v1", RecordingBackend())
TOPIC_ID = "9643e73b-88f4-417a-b7c8-25ea59de2e1e"
ENCODER = ResponseEncoder(Partition("requests", 3), stale=True, attempt=2, topic_id=TOPIC_ID)
# As `kafka-topics.sh --describe` shows it.
SHOWN_TOPIC_ID = b"lkPnO4j0QXq3yCXqWd4uHg"
NOW = 1_700_000_000_000


def a_request(request_id: str = "r", user_id: str = "u", **record: Any) -> RequestContext:
    made = RequestContext(record_of(b"{}", **{"offset": 7, **record}))
    made.request_id, made.model_name, made.user_id = request_id, "m", user_id
    made.version, made.revision, made.digest = VERSION, 4, b"0" * 32
    return made


IDS = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=128) | st.text(
    st.sampled_from('",\\x'), min_size=1, max_size=8
)


@given(st.lists(st.tuples(IDS, IDS), min_size=1))
def test_predictions_are_responses_of_the_contract(ids: Sequence[tuple[str, str]]) -> None:
    """The fields that all share and those of each request make one valid document."""
    requests = [a_request(request_id, user_id) for request_id, user_id in ids]
    rows = ENCODER.predictions(
        VERSION,
        requests,
        [b'{"score":[0.5,null]}'] * len(ids),
        now_unix_ms=NOW,
        latency_ms=1.5,
        cached=True,
        fallback=False,
    )
    for (request_id, user_id), (timestamp, key, value, headers) in zip(ids, rows, strict=True):
        assert value is not None
        response = PredictResponse.model_validate_json(value)
        assert (response.request_id, response.user_id) == (request_id, user_id)
        assert (response.predictions, response.cached, response.stale) == ({"score": [0.5, None]}, True, True)
        assert (response.model_name, response.model_version, response.revision) == ("m", "v1", 4)
        assert "fallback" not in json.loads(value)
        assert (timestamp, key) == (NOW, b"u")
        assert dict(headers) == {
            "headrace-source": b"requests/3/7",
            "headrace-topic-id": SHOWN_TOPIC_ID,
            "headrace-input-digest": b"0" * 32,
            "content-type": b"application/json",
        }


def test_a_fallback_says_so() -> None:
    """In one more field."""
    ((_, _, value, _),) = ENCODER.predictions(
        VERSION, [a_request()], [b"1"], now_unix_ms=NOW, latency_ms=1.0, cached=False, fallback=True
    )
    assert value is not None
    assert PredictResponse.model_validate_json(value).fallback is True


def test_an_error_has_its_details() -> None:
    """A request that was not validated has no digest yet, and its response no header for one."""
    request = a_request()
    request.digest = b""
    error = InvalidInputError("no", [ErrorDetail(path="/x", message="is not a number")])
    _, _, value, headers = ENCODER.error(request, error, now_unix_ms=NOW, latency_ms=2.0)
    assert value is not None
    response = PredictResponse.model_validate_json(value)
    assert response.error is not None
    assert (response.error.code, response.error.message) == ("INVALID_INPUT", "no")
    assert [detail.path for detail in response.error.details] == ["/x"]
    assert dict(headers).keys() == {"headrace-source", "headrace-topic-id", "content-type"}


@pytest.mark.parametrize("error", [BackendFailedError("é" * 2000), MalformedRecordError("é" * 2000)])
def test_a_dead_letter_keeps_the_record(error: AnswerError | MalformedRecordError) -> None:
    """Its key, value and headers as they came, with its source and the error behind them."""
    request = a_request(key=None, headers=[("mine", b"1"), ("none", None)])
    timestamp, key, value, headers = ENCODER.dead_letter(request, error, now_unix_ms=NOW)
    assert (timestamp, key, value) == (NOW, None, b"{}")
    assert headers[:2] == [("mine", b"1"), ("none", None)]
    added = dict(headers[2:])
    assert added["headrace-source"] == b"requests/3/7"
    assert added["headrace-topic-id"] == SHOWN_TOPIC_ID
    assert added["headrace-error-code"] == error.code.encode()
    assert len(added["headrace-error-message"]) == MAX_ERROR_HEADER_BYTES
    assert added["headrace-model-version"] == b"v1"
    assert added["__connect.errors.exception.class.name"] == type(error).__name__.encode()


def test_trace_headers_are_carried() -> None:
    """Those that have a value of a sensible size; no other header of the request."""
    request = a_request(
        headers=[
            ("traceparent", b"t"),
            ("tracestate", b"s" * (MAX_CARRIED_BYTES + 1)),
            ("kafka_correlationId", None),
            ("other", b"o"),
        ]
    )
    _, _, _, headers = ENCODER.error(request, BackendFailedError("no"), now_unix_ms=NOW, latency_ms=2.0)
    assert [pair for pair in headers if not pair[0].startswith(("headrace-", "content-"))] == [
        ("traceparent", b"t")
    ]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["traceparent", "tracestate", "kafka_correlationId", "other"]),
            st.none() | st.integers(0, 5000).map(bytes),
        )
    )
)
def test_carried_headers_are_bounded(headers: Sequence[tuple[str, bytes | None]]) -> None:
    """Each name once, and all together as much as `MAX_CARRIED_TOTAL_BYTES`, however many the request has."""
    _, _, _, sent = ENCODER.error(
        a_request(headers=headers), BackendFailedError("no"), now_unix_ms=NOW, latency_ms=2.0
    )
    carried = [pair for pair in sent if not pair[0].startswith(("headrace-", "content-"))]
    assert len(dict(carried)) == len(carried)
    assert sum(len(value) for _, value in carried) <= MAX_CARRIED_TOTAL_BYTES
    assert set(carried) <= set(headers)


def test_a_dead_letter_that_is_sent_again_has_its_headers_once() -> None:
    """The new ones replace those of the time before; the sender's stay."""
    headers: Sequence[tuple[str, bytes | None]] = [("mine", b"1"), ("headrace-mine", None)]
    first = ENCODER.dead_letter(a_request(headers=headers, offset=1), BackendFailedError("no"), now_unix_ms=1)
    again = ENCODER.dead_letter(
        a_request(headers=first[3], offset=2), MalformedRecordError("no"), now_unix_ms=2
    )
    assert again[3][:2] == headers
    assert len(dict(again[3])) == len(again[3]) == len(first[3])
    assert dict(again[3])["headrace-source"] == b"requests/3/2"
    assert dict(again[3])["headrace-error-code"] == b"MALFORMED_RECORD"


def test_the_documented_headers_of_a_dead_letter_are_those_written() -> None:
    """The encoder removes all names that the contract documents, and writes them but for that of whole batches."""
    assert publish.DEAD_LETTER_HEADERS.keys() == DEAD_LETTER_HEADERS
    letter = without_content(ENCODER.dead_letter(a_request(), BackendFailedError("no"), now_unix_ms=1))
    assert {*dict(letter[3]), "headrace-last-offset"} == DEAD_LETTER_HEADERS


@pytest.mark.parametrize(
    "prediction", [b"9" * 9999, b'0.01,"request_id":"VICTIM","error":{"code":"X"}', b'{"a":', b"\xff"]
)
def test_a_response_is_reduced_whatever_its_predictions_are(prediction: bytes) -> None:
    """What the encoder wrote stays; cached predictions may be any bytes."""
    name = ',"predictions":'
    (row,) = ENCODER.predictions(
        VERSION,
        [a_request(name, name)],
        [prediction],
        now_unix_ms=1,
        latency_ms=1.0,
        cached=True,
        fallback=False,
    )
    timestamp, key, value, headers = without_details(row)
    assert (timestamp, key) == (1, None)
    assert value is not None
    response = PredictResponse.model_validate_json(value)
    assert (response.request_id, response.user_id, response.model_version) == (name, name, "v1")
    assert response.error is not None
    assert response.error.code == "INVALID_OUTPUT"
    assert response.cached is False
    assert dict(headers) == {
        "headrace-source": b"requests/3/7",
        "headrace-topic-id": SHOWN_TOPIC_ID,
        "content-type": b"application/json",
        "headrace-omitted": b"key, headers, details",
    }


def test_an_error_is_reduced_to_its_code() -> None:
    """Its message and details may be of any length."""
    error = InvalidInputError("n" * 9999, [ErrorDetail(path=',"predictions":', message="x")])
    row = ENCODER.error(a_request(headers=[("traceparent", b"t")]), error, now_unix_ms=1, latency_ms=2.0)
    _, key, value, headers = without_details(without_key(row))
    assert value is not None
    response = PredictResponse.model_validate_json(value)
    assert response.error is not None
    assert (key, response.request_id, response.error.code) == (None, "r", "INVALID_INPUT")
    assert (len(value) < 1000, response.error.details) == (True, [])
    assert len(dict(headers)) == len(headers) == 4


def test_what_is_left_out_of_a_row_that_is_too_large() -> None:
    """A response keeps its value; a dead letter keeps the headers that locate the record."""
    response = ENCODER.error(
        a_request(key=b"k" * 9999), BackendFailedError("no"), now_unix_ms=1, latency_ms=2
    )
    timestamp, key, value, headers = without_key(response)
    assert (timestamp, key, value) == (1, None, response[2])
    assert headers == [*response[3], ("headrace-omitted", b"key")]
    request = a_request(headers=[("mine", b"1"), ("headrace-mine", None), ("headrace-source", None)])
    letter = ENCODER.dead_letter(request, MalformedRecordError("no"), now_unix_ms=1)
    _, key, value, headers = without_content(letter)
    assert (key, value) == (None, None)
    assert headers == [*letter[3][2:], ("headrace-omitted", b"key, value, headers")]
