"""streams/serving/pipeline.py: what production answers for another version, and who joins which call, in every order.

The real worker is in tests/faults/test_fallback.py.
"""

import asyncio
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from schemas.errors import (
    BackendBrokenError,
    BackendFailedError,
    BackendUnavailableError,
)
from schemas.events import JsonObject, MetricsDelta
from streams.serving.route_table import ServedVersion, ServingTable
from tests.support.deadline import DEADLINE_SECONDS
from tests.support.models.served_versions import RecordingBackend, served_version
from tests.support.worker.pipeline_harness import GatedBackend, Harness, request, slice_of

WHOLE: JsonObject = {"type": "object", "properties": {"x": {"type": "integer", "minimum": 0}}}
DOWN = BackendUnavailableError("the canary is down")


class Failing(RecordingBackend):
    """Raises this for every batch."""

    def __init__(self, error: Exception = DOWN) -> None:
        super().__init__()
        self.error = error

    async def infer(self, inputs: Sequence[JsonObject], *, timeout_seconds: float) -> list[Any]:
        assert timeout_seconds > 0
        self.calls.append(list(inputs))
        raise self.error


class Canary:
    """v1 in production and the canary v2, which falls back, with half of the users each."""

    def __init__(
        self, production: RecordingBackend, canary: RecordingBackend, of_canary: JsonObject | None = None
    ) -> None:
        self.v1 = served_version("m", "v1", production, WHOLE)
        fields: JsonObject = {"fallback": "production"} | (of_canary or {})
        self.v2 = served_version("m", "v2", canary, {"type": "object"}, **fields)
        self.bench = Harness(self.v1, self.v2, production=self.v1)

    def request(self, request_id: str, value: Any = 1, *, of: ServedVersion, **more: Any) -> JsonObject:
        return request(request_id, value, self.bench.user_of(of), **more)

    def deltas(self) -> dict[str, MetricsDelta]:
        return {delta.model_version: delta for delta in self.bench.book.close_window(datetime.now(UTC))}

    def begin(self, *values: JsonObject) -> asyncio.Task[None]:
        return asyncio.create_task(self.bench.pipeline.process(slice_of(*values)))

    async def until_answered(self, request_id: str) -> JsonObject:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while request_id not in self.bench.output.answers():
                self.bench.output.arrived.clear()
                await self.bench.output.arrived.wait()
        return self.bench.output.answers()[request_id]


async def called(backend: GatedBackend) -> None:
    await asyncio.wait_for(backend.called.wait(), DEADLINE_SECONDS)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (DOWN, "BACKEND_UNAVAILABLE"),
        (BackendFailedError("refused"), "BACKEND_ERROR"),
        (BackendBrokenError("garbage"), "BACKEND_ERROR"),
    ],
)
async def test_production_answers_what_the_canarys_backend_fails_to(error: Exception, code: str) -> None:
    """As its own answer, by its own version, marked; counted there, and as a fallback at the canary."""
    production, failing = RecordingBackend(), Failing(error)
    canary = Canary(production, failing)
    answers = await canary.bench.answer(canary.request("r", of=canary.v2))
    assert answers["r"]["predictions"] == [{"x": 1}]
    assert (answers["r"]["model_version"], answers["r"]["fallback"]) == ("v1", True)
    assert (answers["r"]["cached"], answers["r"]["revision"]) == (False, 4)
    assert canary.bench.output.dead_letters() == []
    assert [key.split(b":")[3] for items, _ in canary.bench.cache.writes for key, _ in items] == [b"v1"]
    deltas = canary.deltas()
    assert (deltas["v1"].requests, deltas["v1"].ok, deltas["v1"].cache_misses) == (1, 1, 1)
    assert (deltas["v2"].requests, deltas["v2"].errors, deltas["v2"].fallbacks) == (0, {}, {code: 1})


async def test_production_answers_what_the_canarys_schema_refuses() -> None:
    """Predictions that break the canary's promise are no answer either."""
    canary = Canary(
        RecordingBackend(), RecordingBackend(lambda _: "bad"), {"output_schema": {"type": "array"}}
    )
    answers = await canary.bench.answer(canary.request("r", of=canary.v2))
    assert (answers["r"]["model_version"], answers["r"]["fallback"]) == ("v1", True)
    assert canary.deltas()["v2"].fallbacks == {"INVALID_OUTPUT": 1}


async def test_production_answers_from_its_cache() -> None:
    """What it knows it is not asked again; the answer says both."""
    production = RecordingBackend()
    canary = Canary(production, Failing())
    await canary.bench.answer(canary.request("own", of=canary.v1))
    answers = await canary.bench.answer(canary.request("r", of=canary.v2))
    assert (answers["r"]["cached"], answers["r"]["fallback"]) == (True, True)
    assert "fallback" not in answers["own"]
    assert len(production.calls) == 1
    deltas = canary.deltas()
    assert (deltas["v1"].requests, deltas["v1"].cache_hits, deltas["v1"].cache_misses) == (2, 1, 1)


async def test_a_fault_of_ours_is_its_own_answer() -> None:
    """It says nothing against the canary, and may be the same at production."""
    production = RecordingBackend()
    canary = Canary(production, Failing(ZeroDivisionError()))
    answers = await canary.bench.answer(canary.request("r", of=canary.v2))
    assert answers["r"]["error"]["code"] == "INTERNAL"
    assert answers["r"]["model_version"] == "v2"
    assert production.calls == []


async def test_without_production_or_its_wish_there_is_no_fallback() -> None:
    """Production's own failure goes to nobody, and a version that declares none keeps its own."""
    for of in ("v1", "v2"):
        failing, plain = Failing(BackendUnavailableError(f"{of} is down")), RecordingBackend()
        production, other = (failing, plain) if of == "v1" else (plain, failing)
        canary = Canary(production, other, {"fallback": None})
        version = canary.v1 if of == "v1" else canary.v2
        answers = await canary.bench.answer(canary.request("r", of=version))
        assert answers["r"]["error"]["message"] == f"{of} is down"
        assert plain.calls == []
        assert len(canary.bench.output.dead_letters()) == 1

    for in_production in (False, True):
        failing = Failing()
        alone = served_version("m", "v2", failing, fallback="production")
        bench = Harness(alone, production=alone if in_production else None)
        assert (await bench.answer(request("r")))["r"]["error"]["code"] == "BACKEND_UNAVAILABLE"
        assert len(failing.calls) == 1


async def test_an_input_that_production_refuses_keeps_the_canarys_error() -> None:
    """And its dead letter; the others of the same call are answered."""
    production = RecordingBackend()
    canary = Canary(production, Failing())
    answers = await canary.bench.answer(
        canary.request("refused", -1, of=canary.v2), canary.request("taken", 1, of=canary.v2)
    )
    assert answers["refused"]["error"]["message"] == "the canary is down"
    assert (answers["refused"]["model_version"], answers["taken"]["model_version"]) == ("v2", "v1")
    assert production.calls == [[{"x": 1}]]
    (letter,) = canary.bench.output.dead_letters()
    assert json.loads(letter.value)["request_id"] == "refused"
    deltas = canary.deltas()
    assert (deltas["v2"].errors, deltas["v2"].fallbacks) == (
        {"BACKEND_UNAVAILABLE": 1},
        {"BACKEND_UNAVAILABLE": 1},
    )
    assert (deltas["v1"].requests, deltas["v2"].requests) == (1, 1)


async def test_when_production_fails_too_the_canarys_error_counts() -> None:
    """Once, at the canary, with one dead letter; production's own users get production's."""
    canary = Canary(Failing(BackendBrokenError("so is production")), Failing())
    answers = await canary.bench.answer(
        canary.request("canarys", of=canary.v2), canary.request("productions", 2, of=canary.v1)
    )
    assert answers["canarys"]["error"]["message"] == "the canary is down"
    assert answers["canarys"]["model_version"] == "v2"
    assert "fallback" not in answers["canarys"]
    assert answers["productions"]["error"]["message"] == "so is production"
    assert len(canary.bench.output.dead_letters()) == 2
    deltas = canary.deltas()
    assert (deltas["v1"].errors, deltas["v2"].errors) == ({"BACKEND_ERROR": 1}, {"BACKEND_UNAVAILABLE": 1})
    assert deltas["v2"].fallbacks == {}
    assert canary.bench.pipeline._coalescer._in_flight == {}


async def test_a_deadline_that_passes_while_production_answers() -> None:
    """Is told at the user's own version; who has more time gets production's answer."""
    production = GatedBackend()
    canary = Canary(production, Failing())
    waiting = canary.begin(
        canary.request("late", of=canary.v2, deadline_ms=100), canary.request("patient", of=canary.v2)
    )
    late = await canary.until_answered("late")
    assert (late["error"]["code"], late["model_version"]) == ("DEADLINE_EXCEEDED", "v2")
    assert "patient" not in canary.bench.output.answers()
    production.gate.set()
    await asyncio.wait_for(waiting, DEADLINE_SECONDS)
    assert canary.bench.output.answers()["patient"]["fallback"] is True
    assert canary.bench.output.dead_letters() == []
    deltas = canary.deltas()
    assert (deltas["v1"].requests, deltas["v2"].requests) == (1, 1)
    assert deltas["v2"].errors == {"DEADLINE_EXCEEDED": 1}


async def test_a_deadline_that_passes_while_the_canary_answers_asks_nobody_else() -> None:
    """There is no time left to answer in."""
    production, hanging = RecordingBackend(), GatedBackend()
    canary = Canary(production, hanging)
    await asyncio.wait_for(
        canary.begin(canary.request("late", of=canary.v2, deadline_ms=100)), DEADLINE_SECONDS
    )
    assert canary.bench.output.answers()["late"]["error"]["code"] == "DEADLINE_EXCEEDED"
    assert production.calls == []


async def test_productions_users_do_not_wait_for_the_canary() -> None:
    """Nor does a slice that falls back wait for the rest of it."""
    production, hanging = RecordingBackend(), GatedBackend()
    canary = Canary(production, hanging)
    waiting = canary.begin(
        canary.request("productions", of=canary.v1), canary.request("canarys", 2, of=canary.v2)
    )
    await called(hanging)
    assert (await canary.until_answered("productions"))["predictions"] == [{"x": 1}]
    assert not waiting.done()
    hanging.gate.set()
    await asyncio.wait_for(waiting, DEADLINE_SECONDS)


async def test_who_falls_back_joins_productions_own_call() -> None:
    """An equal input of production's users that is under way is inferred once."""
    production = GatedBackend()
    canary = Canary(production, Failing())
    own = canary.begin(canary.request("own", of=canary.v1))
    await called(production)
    joining = canary.begin(canary.request("joins", of=canary.v2))
    # It reads production's cache, behind its own, and joins then.
    await canary.bench.cache.until_read(3)
    production.gate.set()
    await asyncio.wait_for(asyncio.gather(own, joining), DEADLINE_SECONDS)
    assert len(production.calls) == 1
    answers = canary.bench.output.answers()
    assert ("fallback" in answers["own"], answers["joins"]["fallback"]) == (False, True)


async def test_a_slice_falls_back_by_its_own_table() -> None:
    """A promotion while the canary is asked changes nothing for the slice."""
    production, hanging = RecordingBackend(), GatedBackend()
    canary = Canary(production, hanging, {"timeout_ms": 60_000})
    waiting = canary.begin(canary.request("r", of=canary.v2))
    await called(hanging)
    canary.bench.tables.swap(ServingTable(epoch=2))
    await canary.v2.dispatcher.close()
    await asyncio.wait_for(waiting, DEADLINE_SECONDS)
    assert canary.bench.output.answers()["r"]["model_version"] == "v1"
    assert len(production.calls) == 1


async def test_who_has_more_time_than_the_call_under_way_gets_one_of_their_own() -> None:
    """The other ends with the deadline of those that it was made for."""
    backend = GatedBackend()
    bench = Harness(served_version("m", "v1", backend))
    short = asyncio.create_task(bench.pipeline.process(slice_of(request("short", deadline_ms=300))))
    await called(backend)
    backend.called.clear()
    patient = asyncio.create_task(bench.pipeline.process(slice_of(request("patient"))))
    await called(backend)
    await asyncio.wait_for(short, DEADLINE_SECONDS)
    assert bench.output.answers()["short"]["error"]["code"] == "DEADLINE_EXCEEDED"
    backend.gate.set()
    await asyncio.wait_for(patient, DEADLINE_SECONDS)
    assert bench.output.answers()["patient"]["predictions"] == [{"x": 1}]
    assert bench.pipeline._coalescer._in_flight == {}


@pytest.mark.parametrize("more", [{}, {"deadline_ms": 60_000}])
async def test_who_has_no_more_time_joins_the_call_under_way(more: JsonObject) -> None:
    """Equal inputs are inferred once."""
    backend = GatedBackend()
    bench = Harness(served_version("m", "v1", backend))
    first = asyncio.create_task(bench.pipeline.process(slice_of(request("first"))))
    await called(backend)
    joins = asyncio.create_task(bench.pipeline.process(slice_of(request("joins", **more))))
    await bench.cache.until_read(2)
    backend.gate.set()
    await asyncio.wait_for(asyncio.gather(first, joins), DEADLINE_SECONDS)
    assert len(backend.calls) == 1
    assert bench.output.answers().keys() == {"first", "joins"}


async def test_a_call_has_the_time_of_the_most_patient_of_its_slice() -> None:
    """However they stand in it."""
    for order in (1, -1):
        backend = GatedBackend()
        bench = Harness(served_version("m", "v1", backend))
        records = [request("short", deadline_ms=50), request("patient")][::order]
        waiting = asyncio.create_task(bench.pipeline.process(slice_of(*records)))
        await called(backend)
        while "short" not in bench.output.answers():
            bench.output.arrived.clear()
            await asyncio.wait_for(bench.output.arrived.wait(), DEADLINE_SECONDS)
        backend.gate.set()
        await asyncio.wait_for(waiting, DEADLINE_SECONDS)
        assert bench.output.answers()["patient"]["predictions"] == [{"x": 1}]
        assert len(backend.calls) == 1
