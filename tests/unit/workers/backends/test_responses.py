"""workers/backends/responses.py: what a model server's answer means, and what of it is told."""

import orjson
import pytest

from schemas.errors import (
    BackendBrokenError,
    BackendFailedError,
    BackendTimeoutError,
    BackendTooLargeError,
    BackendUnavailableError,
)
from workers.backends.responses import error_of_response, excerpt, read_object, read_value


@pytest.mark.parametrize(
    ("status", "error"),
    [
        *((status, BackendFailedError) for status in (400, 415, 422)),
        (413, BackendTooLargeError),
        *((status, BackendUnavailableError) for status in (301, 307, 401, 403, 404, 405, 410)),
        *((status, BackendUnavailableError) for status in (429, 502, 503)),
        (504, BackendTimeoutError),
        *((status, BackendBrokenError) for status in (201, 204, 409, 418, 500, 501, 505, 599)),
    ],
)
def test_statuses_speak_against_the_request_the_server_or_nobody(status: int, error: type[Exception]) -> None:
    """A refused input, an unavailable model and a broken server have different errors."""
    failure = error_of_response(status, b'{"error": "why"}')
    assert type(failure) is error
    assert str(failure).startswith(f"the model server answered {status}: why")


def test_a_refused_token_is_no_fault_of_the_request() -> None:
    """TorchServe says so with 400; other requests are refused for it too."""
    body = b"""{
      "code": 400,
      "type": "InvalidKeyException",
      "message": "Token Authorization failed. Token either incorrect, expired, or not provided correctly"
    }"""
    failure = error_of_response(400, body)
    assert type(failure) is BackendUnavailableError
    assert str(failure).startswith("the model server answered 400: Token Authorization failed. Token either")


def test_a_fault_of_the_model_is_one_whatever_its_status() -> None:
    """A server that reports it with 503 is not unavailable."""
    assert type(error_of_response(503, b"", {503})) is BackendBrokenError
    assert type(error_of_response(502, b"", {503})) is BackendUnavailableError


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b'{"error": "one", "message": "two"}', "one"),
        (b'{"detail": [{"loc": ["x"]}]}', "[{'loc': ['x']}]"),
        (b'{"code": 503, "message": "three"}', "three"),
        (b'{"error": ""}', '{"error": ""}'),
        (b"[1]", "[1]"),
        (b"plain\r\nwords\x1b[31m\x00", "plainwords[31m"),
        (b"\xff\xfe", "��"),
        (b"", ""),
    ],
)
def test_a_server_is_quoted_in_its_own_words(body: bytes, told: str) -> None:
    """Without characters that break a log line or a terminal."""
    assert excerpt(body) == told


def test_a_long_answer_is_cut_and_a_huge_one_not_read() -> None:
    """The message has the beginning only."""
    assert len(excerpt(orjson.dumps({"error": "x" * 1000}))) == 200
    assert excerpt(orjson.dumps({"error": "x" * 100_000})).startswith('{"error":"xxx')


@pytest.mark.parametrize(
    "body", [b"", b"{", b"<html>", b"NaN", b'{"y": NaN}', b'{"y": Infinity}', b"\xff", b"[" * 5000]
)
def test_what_is_no_json_is_broken(body: bytes) -> None:
    """NaN and Infinity are not JSON."""
    with pytest.raises(BackendBrokenError, match="no JSON"):
        read_value(body)


@pytest.mark.parametrize("body", [b"[]", b"null", b'"y"', b"1"])
def test_what_is_no_object_is_broken_where_one_is_needed(body: bytes) -> None:
    """It is a valid JSON value."""
    assert read_value(body) == orjson.loads(body)
    with pytest.raises(BackendBrokenError, match="no JSON object"):
        read_object(body)
