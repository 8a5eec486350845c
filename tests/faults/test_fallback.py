"""A canary whose server fails, beside a production version that is well, on a real worker."""

import asyncio
import itertools
import uuid
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from schemas.events import ErrorCode, JsonObject, PredictResponse
from tests.support.deadline import DEADLINE_SECONDS
from tests.support.models.served_model import apply
from tests.support.promotions.events import event, spec
from tests.support.servers.broken_server import BrokenServer, Fault
from tests.support.servers.http_server import http_server
from tests.support.stack.services import MakeTopics
from tests.support.worker.asking import PARTITIONS, Asking, asking
from tests.support.worker.process import StartWorker

PATH = "/v2/models/m"
USERS = [f"u{number}" for number in range(100)]
LEAST_OF_A_HALF = 25
# Long enough that a healthy server does not reach it on a busy machine.
TIMEOUT_MS = 2000
FAILURES = {ErrorCode.BACKEND_ERROR, ErrorCode.BACKEND_UNAVAILABLE}
PRODUCTIONS_INPUT: JsonObject = {"type": "object", "properties": {"x": {"type": "integer", "minimum": 0}}}


async def serve(dsn: str, production: str, canary: str, **of_canary: Any) -> str:
    """v1 in production, v2 a canary with half of the users; the model's name, which is new."""
    name = f"m-{uuid.uuid4().hex[:12]}"
    v1 = spec("v1", endpoint=production + PATH, timeout_ms=TIMEOUT_MS, input_schema=PRODUCTIONS_INPUT)
    v2 = spec("v2", endpoint=canary + PATH, **{"timeout_ms": TIMEOUT_MS, **of_canary})
    await apply(
        dsn,
        event("register", name, model=v1),
        event("promote", name, version="v1"),
        event("register", name, model=v2),
        event("canary", name, version="v2", weight=50),
    )
    return name


def by_own_version(answers: Sequence[PredictResponse]) -> tuple[list[PredictResponse], list[PredictResponse]]:
    """The answers to users of production, and to those of the canary."""
    canarys = [answer for answer in answers if answer.fallback or answer.model_version == "v2"]
    others = [answer for answer in answers if answer not in canarys]
    assert min(len(canarys), len(others)) >= LEAST_OF_A_HALF
    return others, canarys


def counted(asker: Asking, model: str, answers: Sequence[PredictResponse]) -> dict[str, Counter[str]]:
    """The fallbacks by version and code, when all is counted once where the answers say that it was."""
    deltas = asker.deltas(model)
    requests: Counter[str] = Counter()
    fallbacks: dict[str, Counter[str]] = {"v1": Counter(), "v2": Counter()}
    for delta in deltas:
        requests[delta.model_version] += delta.requests
        assert delta.requests == delta.ok + sum(delta.errors.values())
        fallbacks[delta.model_version].update(delta.fallbacks)
    assert +requests == Counter(answer.model_version for answer in answers)
    assert not fallbacks["v1"]
    assert fallbacks["v2"].total() == sum(answer.fallback for answer in answers)
    return fallbacks


@pytest.mark.parametrize("fault", [Fault.ANSWERS_500, Fault.HANGS, Fault.CLOSES_AT_ONCE, Fault.NAN])
async def test_production_answers_for_a_canary_that_fails(
    topics: MakeTopics, database: str, start_worker: StartWorker, fault: Fault
) -> None:
    """Its users get predictions that say so, whether the canary's server is asked or spared by then."""
    settings = await topics(PARTITIONS, postgres_dsn=database, metrics_interval_seconds=0.25)
    well, broken = BrokenServer(), BrokenServer()
    async with (
        http_server(well.handle) as url,
        http_server(broken.handle) as canary,
        asking(settings) as asker,
    ):
        model = await serve(database, url, canary, fallback="production")
        worker = start_worker(settings)
        await worker.ready()
        before = await asker.ask(model, range(1000, 1100), users=USERS)
        assert not any(answer.fallback for answer in before)
        broken.down = fault
        answers = await asker.ask(model, range(2000, 2100), users=USERS)
        async with asyncio.timeout(DEADLINE_SECONDS):
            # Those that production has in its cache are answered from there; they are in it a moment later.
            while not any(answer.fallback and answer.cached for answer in answers):
                answers += await asker.ask(model, range(2000, 2100), users=USERS)
        others, canarys = by_own_version(answers)
        for x, answer in zip(itertools.cycle(range(2000, 2100)), answers, strict=False):
            assert answer.predictions == 2 * x
            assert answer.model_version == "v1"
        assert not any(answer.fallback for answer in others)
        assert all(answer.fallback for answer in canarys)
        assert {answer.user_id for answer in canarys} == {
            answer.user_id for answer in before if answer.model_version == "v2"
        }
        worker.terminate()
        assert await worker.ended() == 0
        await asker.ended()
        assert asker.letters() == {}
        fallbacks = counted(asker, model, [*before, *answers])
        assert set(fallbacks["v2"]) <= FAILURES


async def test_without_fallback_its_users_are_told(
    topics: MakeTopics, database: str, start_worker: StartWorker
) -> None:
    """And the others never notice, by the same worker at the same time."""
    settings = await topics(PARTITIONS, postgres_dsn=database, metrics_interval_seconds=0.25)
    well, broken = BrokenServer(), BrokenServer()
    broken.down = Fault.HANGS
    async with (
        http_server(well.handle) as url,
        http_server(broken.handle) as canary,
        asking(settings) as asker,
    ):
        model = await serve(database, url, canary)
        worker = start_worker(settings)
        await worker.ready()
        answers = await asker.ask(model, range(1000, 1100), users=USERS)
        others, canarys = by_own_version(answers)
        assert all(answer.error is None and answer.model_version == "v1" for answer in others)
        assert {answer.error and answer.error.code for answer in canarys} == {ErrorCode.BACKEND_UNAVAILABLE}
        worker.terminate()
        assert await worker.ended() == 0
        await asker.ended()
        assert asker.letters().keys() == {answer.request_id for answer in canarys}
        counted(asker, model, answers)


async def test_what_production_does_not_answer_either(
    topics: MakeTopics, database: str, start_worker: StartWorker
) -> None:
    """An input that production refuses, or a failing server of production: the canary's error, with a dead letter."""
    settings = await topics(PARTITIONS, postgres_dsn=database, metrics_interval_seconds=0.25)
    production, broken = BrokenServer(), BrokenServer()
    broken.down = Fault.ANSWERS_500
    async with (
        http_server(production.handle) as url,
        http_server(broken.handle) as canary,
        asking(settings) as asker,
    ):
        model = await serve(database, url, canary, fallback="production")
        worker = start_worker(settings)
        await worker.ready()
        refused = await asker.ask(model, range(-1100, -1000), users=USERS)
        others, canarys = by_own_version(refused)
        assert {answer.error and answer.error.code for answer in others} == {ErrorCode.INVALID_INPUT}
        expect_the_canarys_error(canarys)

        production.down = Fault.HANGS
        failed = await asker.ask(model, range(3000, 3100), users=USERS)
        others_too, canarys_too = by_own_version(failed)
        assert {answer.error and answer.error.code for answer in others_too} == {
            ErrorCode.BACKEND_UNAVAILABLE
        }
        expect_the_canarys_error(canarys_too)
        worker.terminate()
        assert await worker.ended() == 0
        await asker.ended()
        letters = asker.letters()
        assert letters.keys() == {answer.request_id for answer in [*canarys, *failed]}
        for answer in [*canarys, *failed]:
            assert letters[answer.request_id]["headrace-model-version"].decode() == answer.model_version
        fallbacks = counted(asker, model, [*refused, *failed])
        assert not fallbacks["v2"]


def expect_the_canarys_error(answers: Sequence[PredictResponse]) -> None:
    for answer in answers:
        assert answer.model_version == "v2"
        assert not answer.fallback
        assert answer.error is not None
        assert answer.error.code in FAILURES
        assert "answered 500: out of order" in answer.error.message
