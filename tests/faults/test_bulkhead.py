"""A version that is too slow for its requests, beside others, on a real worker."""

import asyncio
import uuid
from asyncio import StreamWriter
from itertools import cycle
from typing import Any

from schemas.events import ErrorCode, PredictResponse
from tests.support.deadline import wait_until
from tests.support.models.served_model import apply
from tests.support.promotions.events import event, spec
from tests.support.servers.http_server import METADATA, HttpRequest, answer, asked, doubled, http_server
from tests.support.stack.services import MakeTopics
from tests.support.worker.asking import PARTITIONS, asking
from tests.support.worker.http_pages import Samples, scraped
from tests.support.worker.process import StartWorker

PATH = "/v2/models/m"
# No call ends by its timeout, however slow the machine is.
TIMEOUT_MS = 600_000
LEARNED_SECONDS = 0.5
# Slices of ten records, of which room is for two and for eight beside them.
SMALL = {"slice_max_records": 10, "slices_in_flight": 2, "slices_set_aside": 8}
# More than have room at once, one in a slice.
HELD = 45


class HeldServer:
    """Doubles what it is asked, while `open` is set and otherwise once it is."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.asked: list[Any] = []
        self.delay_seconds = 0.0

    async def handle(self, request: HttpRequest, writer: StreamWriter) -> None:
        if request.method == "GET":
            writer.write(answer(METADATA))
            return
        self.asked += asked(request)
        await asyncio.sleep(self.delay_seconds)
        await self.open.wait()
        writer.write(answer(doubled(request)))

    async def until_asked(self, count: int) -> None:
        async def enough() -> bool:
            return len(self.asked) >= count

        await wait_until(enough, f"{count} examples at the server")


def version(name: str, url: str, **fields: Any) -> dict[str, Any]:
    return spec(name, endpoint=url + PATH, **{"timeout_ms": TIMEOUT_MS, "cache_ttl_seconds": 0, **fields})


def new_name() -> str:
    return f"m-{uuid.uuid4().hex[:12]}"


def codes(answers: list[PredictResponse]) -> set[ErrorCode | None]:
    return {None if each.error is None else each.error.code for each in answers}


async def test_beyond_a_declared_limit_requests_are_refused_at_once(
    topics: MakeTopics, database: str, start_worker: StartWorker
) -> None:
    """While the one before them still waits; they make no dead letters, and are counted by their code."""
    settings = await topics(PARTITIONS, postgres_dsn=database, metrics_interval_seconds=0.25)
    server, model = HeldServer(), new_name()
    async with http_server(server.handle) as url, asking(settings) as asker:
        v1 = version("v1", url, max_waiting=1)
        await apply(database, event("register", model, model=v1), event("promote", model, version="v1"))
        worker = start_worker(settings)
        first = await asker.send(model, [0])
        await server.until_asked(1)
        refused = await asker.ask(model, range(1, 40))
        assert codes(refused) == {ErrorCode.OVERLOADED}
        assert server.asked == [0]
        server.open.set()
        (answered,) = await asker.answers(first)
        assert answered.predictions == 0
        (afterwards,) = await asker.ask(model, [7])
        assert afterwards.predictions == 14
        worker.terminate()
        assert await worker.ended() == 0
        await asker.ended()
        assert asker.letters() == {}
        deltas = asker.deltas(model)
        assert sum(delta.ok for delta in deltas) == 2
        assert sum(delta.errors.get("OVERLOADED", 0) for delta in deltas) == 39
        assert sum(delta.breaker_opened for delta in deltas) == 0


async def test_production_answers_beyond_the_limit_of_a_canary(
    topics: MakeTopics, database: str, start_worker: StartWorker
) -> None:
    """Its users get predictions while the canary's server is held."""
    settings = await topics(PARTITIONS, postgres_dsn=database, metrics_interval_seconds=0.25)
    well, held, model = HeldServer(), HeldServer(), new_name()
    well.open.set()
    users = [f"u{number}" for number in range(40)]
    async with http_server(well.handle) as url, http_server(held.handle) as canary, asking(settings) as asker:
        v2 = version("v2", canary, max_waiting=1, fallback="production")
        await apply(
            database,
            event("register", model, model=version("v1", url)),
            event("promote", model, version="v1"),
            event("register", model, model=v2),
            event("canary", model, version="v2", weight=50),
        )
        worker = start_worker(settings)
        ids = await asker.send(model, range(40), users=users)
        await held.until_asked(1)
        answers = await asker.ask(model, range(100, 140), users=users)
        assert [each.predictions for each in answers] == [2 * x for x in range(100, 140)]
        assert {each.model_version for each in answers} == {"v1"}
        assert any(each.fallback for each in answers)
        assert len(held.asked) == 1
        held.open.set()
        assert [each.predictions for each in await asker.answers(ids)] == [2 * x for x in range(40)]
        worker.terminate()
        assert await worker.ended() == 0
        await asker.ended()
        causes = {code for delta in asker.deltas(model) for code in delta.fallbacks}
        assert causes == {"OVERLOADED"}


async def test_a_deadline_that_cannot_be_met_is_answered_before_it_has_passed(
    topics: MakeTopics, database: str, start_worker: StartWorker
) -> None:
    """The worker knows from the time of a call and from what waits; the deadline is minutes away."""
    settings = await topics(PARTITIONS, postgres_dsn=database)
    server, model = HeldServer(), new_name()
    server.open.set()
    server.delay_seconds = LEARNED_SECONDS
    async with http_server(server.handle) as url, asking(settings) as asker:
        v1 = version("v1", url, max_batch=1, server={"max_calls": 1})
        await apply(database, event("register", model, model=v1), event("promote", model, version="v1"))
        worker = start_worker(settings)
        await asker.ask(model, [0])
        server.open.clear()
        # Together they take LEARNED_SECONDS each, half an hour.
        waiting = await asker.send(model, range(1, 3601))
        await server.until_asked(2)

        async def refused() -> PredictResponse | None:
            """What is sent before the worker has read those that wait, is not refused."""
            (response,) = await asker.ask(model, [9999], deadline_ms=deadline_ms)
            return response if response.error and "cannot be met" in response.error.message else None

        deadline_ms = 100_000
        response = await wait_until(refused, "a refusal")
        assert response is not None
        assert response.error is not None
        assert response.error.code is ErrorCode.DEADLINE_EXCEEDED
        assert len(server.asked) == 2
        worker.kill()
        await worker.ended()
        assert len(waiting) == 3600


async def test_what_waits_for_a_slow_version_holds_up_no_other(
    topics: MakeTopics, database: str, start_worker: StartWorker
) -> None:
    """Neither the other version of its model, nor another model, in any partition; nobody fails."""
    settings = await topics(PARTITIONS, postgres_dsn=database, http_port=0, **SMALL)
    well, held, model, other = HeldServer(), HeldServer(), new_name(), new_name()
    well.open.set()
    held.open.set()
    async with http_server(well.handle) as url, http_server(held.handle) as slow, asking(settings) as asker:
        await apply(
            database,
            event("register", model, model=version("v1", url)),
            event("promote", model, version="v1"),
            event("register", model, model=version("v2", slow)),
            event("canary", model, version="v2", weight=50),
            event("register", other, model=version("v1", url)),
            event("promote", other, version="v1"),
        )
        worker = start_worker(settings, "predict")
        page = f"http://127.0.0.1:{(await worker.logged('http served'))['port']}"
        everybody = [f"u{number}" for number in range(20)]
        versions = [each.model_version for each in await asker.ask(model, range(20), users=everybody)]
        of_v1, of_v2 = (
            [user for user, found in zip(everybody, versions, strict=True) if found == name]
            for name in ("v1", "v2")
        )
        held.open.clear()
        waiting, others = [], []
        for number, user in zip(range(HELD), cycle(of_v2), strict=False):
            xs = range(1000 + 10 * number, 1010 + 10 * number)
            waiting += await asker.send(model, xs[:1], users=[user])
            others += await asker.send(model, xs[1:6], users=of_v1)
            others += await asker.send(other, xs[6:])
        assert codes(await asker.answers(others)) == {None}

        def all_wait(samples: Samples) -> bool:
            return samples.total("headrace_waiting_requests", model_name=model, model_version="v2") == HELD

        samples = await scraped(page, all_wait, "what waits")
        assert samples.total("headrace_consumer_set_aside_slices") > 0
        held.open.set()
        assert codes(await asker.answers(waiting)) == {None}
        worker.terminate()
        assert await worker.ended() == 0
        await asker.ended()
        assert asker.letters() == {}


async def test_a_backlog_for_a_slow_version_is_held_back_and_worked_off(
    topics: MakeTopics, database: str, start_worker: StartWorker
) -> None:
    """No more of it waits in the worker than has room; none of it fails."""
    settings = await topics(PARTITIONS, postgres_dsn=database, http_port=0, **SMALL)
    held, model = HeldServer(), new_name()
    limit = (SMALL["slices_in_flight"] + SMALL["slices_set_aside"]) * SMALL["slice_max_records"]
    async with http_server(held.handle) as url, asking(settings) as asker:
        await apply(
            database,
            event("register", model, model=version("v1", url)),
            event("promote", model, version="v1"),
        )
        ids = await asker.send(model, range(5 * limit))
        worker = start_worker(settings, "predict")
        page = f"http://127.0.0.1:{(await worker.logged('http served'))['port']}"

        def is_full(samples: Samples) -> bool:
            return samples.total("headrace_consumer_set_aside_slices") > SMALL["slices_set_aside"] - 1

        samples = await scraped(page, is_full, "as much as is set aside at most")
        assert samples.total("headrace_waiting_requests", model_name=model) <= limit
        held.open.set()
        assert [each.predictions for each in await asker.answers(ids)] == [2 * x for x in range(5 * limit)]
        worker.terminate()
        assert await worker.ended() == 0
        await asker.ended()
        assert asker.letters() == {}
