"""streams/serving/fallback.py: what follows a failed call, as a table and through the pipeline.

The real worker is in tests/faults/test_fallback.py.
"""

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import (
    AnswerError,
    BackendBrokenError,
    BackendFailedError,
    BackendUnavailableError,
    DeadlineExceededError,
    DeadlineOutOfReachError,
    InternalError,
    InvalidOutputError,
    OverloadedError,
)
from streams.serving.fallback import VERSION_ERRORS, AskProduction, CallResult, after_call, production_for
from streams.serving.requests import RequestContext
from streams.serving.route_table import ServedVersion, ServingTable
from tests.support.deadline import DEADLINE_SECONDS
from tests.support.models.served_versions import RecordingBackend, record_of, served_model, served_version
from tests.support.worker.pipeline_harness import (
    DOWN,
    WHOLE_NUMBERS,
    Canary,
    FailingBackend,
    GatedBackend,
    Harness,
    request,
)

ACCEPTS = served_version("m", "v1", RecordingBackend(), WHOLE_NUMBERS)
REFUSES = served_version("m", "v1", RecordingBackend(), {"type": "object", "required": ["y"]})
FIRST = BackendFailedError("the request's own version failed")
FAULT = InternalError("a fault of ours")


def a_request() -> RequestContext:
    request = RequestContext(record_of(b""))
    request.input = {"x": 1}
    return request


@pytest.mark.parametrize(
    ("result", "first_error", "production", "follows"),
    [
        (b"[1]", None, None, b"[1]"),
        (b"[1]", None, ACCEPTS, b"[1]"),
        (b"[1]", FIRST, None, b"[1]"),
        (DOWN, FIRST, None, FIRST),
        (FAULT, FIRST, None, FIRST),
        (FAULT, None, ACCEPTS, FAULT),
        (DOWN, None, None, DOWN),
        (DOWN, None, REFUSES, DOWN),
        (DOWN, None, ACCEPTS, AskProduction(DOWN)),
    ],
)
def test_what_follows_a_call(
    result: CallResult,
    first_error: AnswerError | None,
    production: ServedVersion | None,
    follows: CallResult | AskProduction,
) -> None:
    """The table of the docstring."""
    assert after_call(a_request(), result, first_error=first_error, production=production) == follows


ERRORS = st.sampled_from(
    [
        BackendUnavailableError,
        BackendFailedError,
        BackendBrokenError,
        InvalidOutputError,
        InternalError,
        DeadlineExceededError,
        DeadlineOutOfReachError,
        OverloadedError,
    ]
).map(lambda error: error("failed"))


@given(st.binary() | ERRORS, st.none() | ERRORS, st.sampled_from([None, ACCEPTS, REFUSES]))
def test_every_call_has_one_end(
    result: CallResult, first_error: AnswerError | None, production: ServedVersion | None
) -> None:
    """Predictions are never dropped, production is asked once at most, and no other error appears."""
    follows = after_call(a_request(), result, first_error=first_error, production=production)
    if isinstance(result, bytes):
        assert follows is result
    elif isinstance(follows, AskProduction):
        assert first_error is None
        assert production is ACCEPTS
        assert isinstance(result, VERSION_ERRORS)
        again = after_call(a_request(), result, first_error=follows.first_error, production=None)
        assert again is follows.first_error is result
    else:
        assert follows is (result if first_error is None else first_error)


def test_which_version_answers_for_another() -> None:
    """Production, for a version with `fallback` that is not production itself."""
    plain = served_version("m", "v2", RecordingBackend())
    falls_back = served_version("m", "v3", RecordingBackend(), fallback="production")
    model = served_model("m", 1, ACCEPTS, plain, falls_back, production=ACCEPTS)
    assert production_for(falls_back, model) is ACCEPTS
    assert production_for(plain, model) is None
    assert production_for(falls_back, served_model("m", 1, falls_back, production=falls_back)) is None
    assert production_for(falls_back, served_model("m", 1, falls_back)) is None


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (DOWN, "BACKEND_UNAVAILABLE"),
        (BackendFailedError("refused"), "BACKEND_ERROR"),
        (BackendBrokenError("garbage"), "BACKEND_ERROR"),
    ],
)
async def test_production_answers_when_the_backend_of_the_canary_fails(error: Exception, code: str) -> None:
    """The response names production's version and says `fallback`; the canary counts a fallback and no error."""
    production, failing = RecordingBackend(), FailingBackend(error)
    canary = Canary(production, failing)
    answers = await canary.harness.answer(canary.request("r", of=canary.v2))
    assert answers["r"]["predictions"] == [{"x": 1}]
    assert (answers["r"]["model_version"], answers["r"]["fallback"]) == ("v1", True)
    assert (answers["r"]["cached"], answers["r"]["revision"]) == (False, 4)
    assert canary.harness.output.dead_letters() == []
    assert [key.split(b":")[1] for items, _ in canary.harness.cache.writes for key, _ in items] == [b"v1"]
    deltas = canary.deltas()
    assert (deltas["v1"].requests, deltas["v1"].ok, deltas["v1"].cache_misses) == (1, 1, 1)
    assert (deltas["v2"].requests, deltas["v2"].errors, deltas["v2"].fallbacks) == (0, {}, {code: 1})


async def test_production_answers_when_the_canarys_predictions_are_invalid() -> None:
    """Predictions that its output schema refuses count as a fault of the canary."""
    canary = Canary(
        RecordingBackend(), RecordingBackend(lambda _: "bad"), {"output_schema": {"type": "array"}}
    )
    answers = await canary.harness.answer(canary.request("r", of=canary.v2))
    assert (answers["r"]["model_version"], answers["r"]["fallback"]) == ("v1", True)
    assert canary.deltas()["v2"].fallbacks == {"INVALID_OUTPUT": 1}


async def test_production_answers_from_its_cache() -> None:
    """A cached prediction of production needs no call; the response says `cached` and `fallback`."""
    production = RecordingBackend()
    canary = Canary(production, FailingBackend())
    await canary.harness.answer(canary.request("own", of=canary.v1))
    answers = await canary.harness.answer(canary.request("r", of=canary.v2))
    assert (answers["r"]["cached"], answers["r"]["fallback"]) == (True, True)
    assert "fallback" not in answers["own"]
    assert len(production.calls) == 1
    deltas = canary.deltas()
    assert (deltas["v1"].requests, deltas["v1"].cache_hits, deltas["v1"].cache_misses) == (2, 1, 1)


async def test_an_internal_fault_does_not_fall_back() -> None:
    """It is not a fault of the canary, and production may meet it too."""
    production = RecordingBackend()
    canary = Canary(production, FailingBackend(ZeroDivisionError()))
    answers = await canary.harness.answer(canary.request("r", of=canary.v2))
    assert answers["r"]["error"]["code"] == "INTERNAL"
    assert answers["r"]["model_version"] == "v2"
    assert production.calls == []


async def test_without_production_or_the_setting_there_is_no_fallback() -> None:
    """An error of production itself is the response, and so is that of a version without `fallback`."""
    for of in ("v1", "v2"):
        failing, plain = FailingBackend(BackendUnavailableError(f"{of} is down")), RecordingBackend()
        production, other = (failing, plain) if of == "v1" else (plain, failing)
        canary = Canary(production, other, {"fallback": None})
        version = canary.v1 if of == "v1" else canary.v2
        answers = await canary.harness.answer(canary.request("r", of=version))
        assert answers["r"]["error"]["message"] == f"{of} is down"
        assert plain.calls == []
        assert len(canary.harness.output.dead_letters()) == 1

    for in_production in (False, True):
        failing = FailingBackend()
        alone = served_version("m", "v2", failing, fallback="production")
        harness = Harness(alone, production=alone if in_production else None)
        assert (await harness.answer(request("r")))["r"]["error"]["code"] == "BACKEND_UNAVAILABLE"
        assert len(failing.calls) == 1


async def test_an_input_that_production_refuses_keeps_the_canarys_error() -> None:
    """The record is a dead letter; production answers the other request of the same call."""
    production = RecordingBackend()
    canary = Canary(production, FailingBackend())
    answers = await canary.harness.answer(
        canary.request("refused", -1, of=canary.v2), canary.request("taken", 1, of=canary.v2)
    )
    assert answers["refused"]["error"]["message"] == "the canary is down"
    assert (answers["refused"]["model_version"], answers["taken"]["model_version"]) == ("v2", "v1")
    assert production.calls == [[{"x": 1}]]
    (letter,) = canary.harness.output.dead_letters()
    assert json.loads(letter.value)["request_id"] == "refused"
    deltas = canary.deltas()
    assert (deltas["v2"].errors, deltas["v2"].fallbacks) == (
        {"BACKEND_UNAVAILABLE": 1},
        {"BACKEND_UNAVAILABLE": 1},
    )
    assert (deltas["v1"].requests, deltas["v2"].requests) == (1, 1)


async def test_when_production_fails_too_the_canarys_error_is_the_response() -> None:
    """It is counted once, at the canary, with one dead letter; users of production get production's error."""
    canary = Canary(FailingBackend(BackendBrokenError("so is production")), FailingBackend())
    answers = await canary.harness.answer(
        canary.request("canarys", of=canary.v2), canary.request("productions", 2, of=canary.v1)
    )
    assert answers["canarys"]["error"]["message"] == "the canary is down"
    assert answers["canarys"]["model_version"] == "v2"
    assert "fallback" not in answers["canarys"]
    assert answers["productions"]["error"]["message"] == "so is production"
    assert len(canary.harness.output.dead_letters()) == 2
    deltas = canary.deltas()
    assert (deltas["v1"].errors, deltas["v2"].errors) == ({"BACKEND_ERROR": 1}, {"BACKEND_UNAVAILABLE": 1})
    assert deltas["v2"].fallbacks == {}


async def test_a_deadline_that_passes_while_production_answers() -> None:
    """It expires at the request's own version; a request without a deadline gets the response of production."""
    production = GatedBackend()
    canary = Canary(production, FailingBackend())
    waiting = canary.begin(
        canary.request("late", of=canary.v2, deadline_ms=100), canary.request("patient", of=canary.v2)
    )
    late = await canary.until_answered("late")
    assert (late["error"]["code"], late["model_version"]) == ("DEADLINE_EXCEEDED", "v2")
    assert "patient" not in canary.harness.output.answers()
    production.gate.set()
    await asyncio.wait_for(waiting, DEADLINE_SECONDS)
    assert canary.harness.output.answers()["patient"]["fallback"] is True
    assert canary.harness.output.dead_letters() == []
    deltas = canary.deltas()
    assert (deltas["v1"].requests, deltas["v2"].requests) == (1, 1)
    assert deltas["v2"].errors == {"DEADLINE_EXCEEDED": 1}


async def test_a_deadline_that_passes_while_the_canary_is_called_does_not_fall_back() -> None:
    """No time is left for a second call."""
    production, hanging = RecordingBackend(), GatedBackend()
    canary = Canary(production, hanging)
    await asyncio.wait_for(
        canary.begin(canary.request("late", of=canary.v2, deadline_ms=100)), DEADLINE_SECONDS
    )
    assert canary.harness.output.answers()["late"]["error"]["code"] == "DEADLINE_EXCEEDED"
    assert production.calls == []


async def test_requests_of_production_do_not_wait_for_the_canary() -> None:
    """Their response is sent while the call of the canary is in flight."""
    production, hanging = RecordingBackend(), GatedBackend()
    canary = Canary(production, hanging)
    waiting = canary.begin(
        canary.request("productions", of=canary.v1), canary.request("canarys", 2, of=canary.v2)
    )
    await hanging.until_called()
    assert (await canary.until_answered("productions"))["predictions"] == [{"x": 1}]
    assert not waiting.done()
    hanging.gate.set()
    await asyncio.wait_for(waiting, DEADLINE_SECONDS)


async def test_a_fallback_joins_a_call_of_production_in_flight() -> None:
    """An equal input is inferred once."""
    production = GatedBackend()
    canary = Canary(production, FailingBackend())
    own = canary.begin(canary.request("own", of=canary.v1))
    await production.until_called()
    joining = canary.begin(canary.request("joins", of=canary.v2))
    # The third read is that of production's entry; the request then joins the call.
    await canary.harness.cache.until_read(3)
    production.gate.set()
    await asyncio.wait_for(asyncio.gather(own, joining), DEADLINE_SECONDS)
    assert len(production.calls) == 1
    answers = canary.harness.output.answers()
    assert ("fallback" in answers["own"], answers["joins"]["fallback"]) == (False, True)


async def test_a_slice_falls_back_to_production_of_its_own_table() -> None:
    """A swap while the canary is called changes nothing for the slice."""
    production, hanging = RecordingBackend(), GatedBackend()
    canary = Canary(production, hanging, {"timeout_ms": 60_000})
    waiting = canary.begin(canary.request("r", of=canary.v2))
    await hanging.until_called()
    canary.harness.tables.swap(ServingTable(epoch=2))
    await canary.v2.dispatcher.close()
    await asyncio.wait_for(waiting, DEADLINE_SECONDS)
    assert canary.harness.output.answers()["r"]["model_version"] == "v1"
    assert len(production.calls) == 1
