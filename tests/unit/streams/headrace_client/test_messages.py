"""streams/headrace_client/messages.py: it takes and writes what Headrace's own models do, without them."""

import math
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas.events import Outcome, PredictError, PredictRequest, PredictResponse
from schemas.models import BucketRange, PromotionError, PromotionEvent, PromotionResult, Route
from streams.config.settings import Settings
from streams.headrace_client.client_errors import HeadraceClientError, InvalidRequestError
from streams.headrace_client.installation import Topics
from streams.headrace_client.messages import (
    Message,
    ResponseError,
    outcome_event,
    prediction_request,
    promotion_event,
    read_object,
    read_response,
    read_result,
)

ROOT = Path(__file__).parents[4]
texts = st.one_of(
    st.sampled_from(
        ["m", "fraud-v2", "M", "", "a" * 63, "a" * 64, "-a", "a b", "a\n", "é", "1.0+x_y", "u\u2028"]
    ),
    st.text(max_size=300),
)
anything = st.one_of(texts, st.integers(), st.floats(), st.none(), st.booleans(), st.just({}))


@given(
    model=anything,
    user=anything,
    input=st.one_of(st.dictionaries(texts, anything, max_size=3), anything),
    deadline=st.one_of(st.none(), st.integers(-1, 700_000), anything),
)
def test_a_request_is_refused_where_a_worker_refuses_it(
    model: Any,
    user: Any,
    input: Any,  # noqa: A002  # the contract's word
    deadline: Any,
) -> None:
    """And only there, or where it has no form in JSON; what is sent is what was given."""
    fields = {"model_name": model, "user_id": user, "input": input, "deadline_ms": deadline}
    try:
        expected = PredictRequest.model_validate({"request_id": "r", **fields})
    except ValidationError:
        expected = None
    refusal = ""
    try:
        request = prediction_request(model, user_id=user, input=input, deadline_ms=deadline)
    except InvalidRequestError as error:
        refusal = str(error)
    if refusal:
        assert expected is None or "JSON" in refusal
        return
    assert expected is not None
    sent = PredictRequest.model_validate_json(request.value)
    assert sent.request_id == request.message_id
    assert sent.model_copy(update={"request_id": "r"}) == expected
    assert request.key == user.encode()


@given(version=texts, reason=texts, actor=texts, revision=st.one_of(st.none(), st.integers(0, 9)))
def test_an_event_is_refused_where_control_refuses_it(
    version: str, reason: str, actor: str, revision: int | None
) -> None:
    fields: dict[str, Any] = {
        "version": version,
        "reason": reason,
        "actor": actor,
        "expected_revision": revision,
    }
    try:
        expected = PromotionEvent.model_validate(
            {"event_id": "e", "model_name": "m", "action": "promote", **fields}
        )
    except ValidationError:
        expected = None
    try:
        event = promotion_event("m", "promote", **fields)
    except InvalidRequestError:
        assert expected is None
        return
    sent = PromotionEvent.model_validate_json(event.value)
    assert sent.model_copy(update={"event_id": "e"}) == expected


@given(name=texts, value=st.floats(), request_id=st.one_of(st.none(), texts), outcome_id=texts)
def test_an_outcome_is_refused_where_the_contract_refuses_it(
    name: str, value: float, request_id: str | None, outcome_id: str
) -> None:
    at = datetime(2026, 11, 29, 12, 0, 0, 5000, tzinfo=UTC)
    fields: dict[str, Any] = {
        "name": name,
        "value": value,
        "request_id": request_id,
        "outcome_id": outcome_id,
    }
    try:
        expected = Outcome.model_validate({"model_name": "m", "user_id": "u", "occurred_at": at, **fields})
    except ValidationError:
        expected = None
    try:
        event = outcome_event("m", user_id="u", occurred_at=at, **fields)
    except InvalidRequestError:
        assert expected is None or not math.isfinite(value)
        return
    assert Outcome.model_validate_json(event.value) == expected


def test_a_number_as_user_id_is_refused_with_what_to_send() -> None:
    with pytest.raises(InvalidRequestError, match='user_id is text, not a number: send "42"'):
        prediction_request("m", user_id=42, input={}, deadline_ms=None)  # type: ignore[arg-type]


def test_a_time_needs_a_zone() -> None:
    local = datetime(2026, 11, 29, 12)  # noqa: DTZ001  # what is refused
    with pytest.raises(InvalidRequestError, match="needs a time zone"):
        outcome_event(
            "m", user_id="u", name="n", value=1, request_id=None, outcome_id=None, occurred_at=local
        )


def test_a_response_is_read_as_a_worker_writes_it() -> None:
    written = PredictResponse(
        request_id="r",
        model_name="m",
        model_version="v1",
        user_id="u",
        error=PredictError.model_validate(
            {"code": "INVALID_INPUT", "message": "no", "details": [{"path": "/x", "message": "a number"}]}
        ),
        latency_ms=1.5,
        cached=False,
        revision=3,
        stale=True,
    )
    response = read_response(document_of(written.model_dump_json(exclude_unset=True)), b"")
    assert response.error is not None
    assert (response.error.code, response.error.details[0].path) == ("INVALID_INPUT", "/x")
    assert (response.revision, response.stale, response.fallback) == (3, True, False)


def test_a_result_is_read_as_a_control_worker_writes_it() -> None:
    """The shares of the versions are added up over their ranges of buckets."""
    ranges = [(0, 2500, "v1"), (2500, 5000, "v2"), (5000, 10_000, "v1")]
    written = PromotionResult(
        event_id="e",
        model_name="m",
        action="canary",
        status="applied",
        revision=4,
        epoch=9,
        route=Route(salt="s", ranges=tuple(BucketRange(start=a, end=b, version=v) for a, b, v in ranges)),
        error=None,
        applied_at=datetime.now(UTC),
        actor="",
    )
    result = read_result(document_of(written.model_dump_json()), b"")
    assert (result.revision, result.epoch) == (4, 9)
    assert result.weights == {"v1": 75.0, "v2": 25.0}
    rejected = written.model_copy(
        update={"status": "rejected", "route": None, "error": PromotionError(code="C", message="no")}
    )
    result = read_result(document_of(rejected.model_dump_json()), b"")
    assert (result.weights, result.error) == ({}, ResponseError("C", "no"))


@given(value=st.binary(max_size=40))
def test_any_record_is_a_reply_or_refused(value: bytes) -> None:
    document = read_object(value)
    assert document is None or isinstance(document, dict)


@pytest.mark.parametrize(
    "broken", [{}, {"request_id": "r", "latency_ms": "x"}, {"route": 7}, {"route": {"ranges": 1}}]
)
def test_a_reply_that_breaks_the_contract_is_an_error(broken: dict[str, Any]) -> None:
    for read in (read_response, read_result):
        with pytest.raises(HeadraceClientError, match="breaks the contract"):
            read(broken, b"")


def test_the_topics_and_the_release_are_those_of_headrace() -> None:
    settings = Settings()
    for name in Topics.__dataclass_fields__:
        assert getattr(Topics(), name) == getattr(settings, f"topic_{name}")
    ours, clients = (
        tomllib.loads((folder / "pyproject.toml").read_text())["project"]
        for folder in (ROOT, ROOT / "streams/headrace_client")
    )
    assert clients["version"] == ours["version"]
    assert isinstance(promotion_event("m", "rollback"), Message)


def document_of(text: str) -> dict[str, Any]:
    document = read_object(text.encode())
    assert document is not None
    return document


@pytest.mark.parametrize("user_id", ["\ud800", "u\udfff"])
def test_text_without_a_form_in_utf_8_is_refused(user_id: str) -> None:
    """A lone surrogate, which Python's text may have."""
    with pytest.raises(InvalidRequestError, match="cannot be sent as JSON"):
        prediction_request("m", user_id=user_id, input={}, deadline_ms=None)
    with pytest.raises(InvalidRequestError, match="cannot be sent as JSON"):
        outcome_event(
            "m", user_id=user_id, name="click", value=1, request_id=None, outcome_id=None, occurred_at=None
        )
