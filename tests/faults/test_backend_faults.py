"""Model servers that fail in every way, behind a real worker: the error of each, and requests that are not affected."""

import asyncio
import ssl
import uuid
from asyncio import StreamWriter
from functools import partial
from typing import Any

import psutil
import pytest

from schemas.events import ErrorCode, PredictResponse
from tests.support.deadline import wait_until
from tests.support.models.served_model import apply
from tests.support.promotions.events import event, spec
from tests.support.servers.broken_server import BIG_BYTES, BrokenServer, Fault
from tests.support.servers.http_server import METADATA, HttpRequest, answer, doubled, http_server
from tests.support.stack.certificates import Certificates
from tests.support.stack.services import MakeTopics
from tests.support.worker.asking import PARTITIONS, asking
from tests.support.worker.process import StartWorker
from workers.backends.model_server import MAX_RESPONSE_BYTES
from workers.calls.health import BREAKER
from workers.network.retry import MAX_TRIES

MIB = 1024 * 1024
SPARED = "the model server is not called for now: "
CLOSING = "connection: close\r\n"
# Long enough that a healthy server does not reach it on a busy machine.
TIMEOUT_MS = 2000
PATHS = {"open-inference": "/v2/models/m", "tensorflow": "/v1/models/m", "torchserve": "/predictions/m"}

UNAVAILABLE, ERROR = ErrorCode.BACKEND_UNAVAILABLE, ErrorCode.BACKEND_ERROR
CODES = {
    Fault.SLOW: None,
    Fault.HANGS: UNAVAILABLE,
    Fault.HANGS_AFTER_HEADERS: UNAVAILABLE,
    Fault.DRIPS: UNAVAILABLE,
    Fault.CLOSES_EARLY: ERROR,
    Fault.CLOSES_AT_ONCE: UNAVAILABLE,
    Fault.ANSWERS_500: ERROR,
    Fault.ANSWERS_503: UNAVAILABLE,
    Fault.ANSWERS_429: UNAVAILABLE,
    Fault.WRONG_JSON: ERROR,
    Fault.NAN: ERROR,
    Fault.TOO_MANY_PREDICTIONS: ERROR,
    Fault.NO_PREDICTIONS: ERROR,
    Fault.BIG_AS_TOLD: ERROR,
    Fault.BIG_UNTOLD: ERROR,
    Fault.REDIRECTS: UNAVAILABLE,
    Fault.NO_HTTP: ERROR,
}
# Reading up to the limit takes time that depends on the machine: BIG_UNTOLD has a test of its own.
QUICK = [fault for fault in Fault if fault is not Fault.BIG_UNTOLD]
HANG = Fault.HANGS, Fault.HANGS_AFTER_HEADERS, Fault.DRIPS


def code_of(fault: Fault, framework: str) -> ErrorCode | None:
    if framework == "torchserve":
        # One call has one prediction, and a 503 is a fault of the handler.
        special = {Fault.TOO_MANY_PREDICTIONS: None, Fault.ANSWERS_503: ERROR}
        return special.get(fault, CODES[fault])
    return CODES[fault]


async def serve(dsn: str, endpoint: str, **fields: Any) -> str:
    """Promote a version at this endpoint; its model's name, which is new: prediction caches are shared."""
    name = f"m-{uuid.uuid4().hex[:12]}"
    version = spec("v1", endpoint=endpoint, **{"timeout_ms": TIMEOUT_MS, "cache_ttl_seconds": 300, **fields})
    await apply(dsn, event("register", name, model=version), event("promote", name, version="v1"))
    return name


async def test_each_fault_is_told_and_harms_nobody_else(
    topics: MakeTopics, database: str, start_worker: StartWorker
) -> None:
    """By each protocol: its code, with a dead letter, and nothing of it in the cache."""
    settings = await topics(PARTITIONS, postgres_dsn=database, metrics_interval_seconds=0.25)
    reached: list[HttpRequest] = []

    async def elsewhere(request: HttpRequest, writer: StreamWriter) -> None:
        reached.append(request)
        writer.write(answer(doubled(request)))

    async with http_server(elsewhere) as other, asking(settings) as asker:
        server = BrokenServer(elsewhere=other)
        async with http_server(server.handle) as url:
            models = {
                framework: await serve(
                    database, url + path, framework=framework, max_batch=1, output_schema={"type": "integer"}
                )
                for framework, path in PATHS.items()
            }
            worker = start_worker(settings)
            await worker.ready()
            letters: dict[str, ErrorCode] = {}
            for fault in QUICK:
                answers = await asyncio.gather(
                    *(asker.ask(model, [100 + fault, fault, 200 + fault]) for model in models.values())
                )
                for framework, (before, bad, after) in zip(models, answers, strict=True):
                    assert before.predictions == 2 * (100 + fault), (fault, framework)
                    assert after.predictions == 2 * (200 + fault), (fault, framework)
                    check(bad, fault, code_of(fault, framework))
                    if bad.error is not None:
                        letters[bad.request_id] = bad.error.code
            for model in models.values():
                # A deadline is shorter than the timeout, and kept whatever the server does.
                for hang in HANG:
                    (response,) = await asker.ask(model, [hang], deadline_ms=TIMEOUT_MS // 2)
                    assert response.error is not None
                    assert response.error.code == ErrorCode.DEADLINE_EXCEEDED
                    # Too many in a row would open the breaker.
                    (response,) = await asker.ask(model, [300 + hang])
                    assert response.predictions == 2 * (300 + hang)

            # Failed predictions are not cached, and the breaker stays closed.
            server.well = True
            for framework, model in models.items():
                for fault, response in zip(QUICK, await asker.ask(model, QUICK), strict=True):
                    assert response.predictions == 2 * fault, (fault, framework)
                    assert response.cached == (code_of(fault, framework) is None), (fault, framework)
            worker.terminate()
            assert await worker.ended() == 0
        await asker.ended()
        assert {
            request_id: headers["headrace-error-code"].decode()
            for request_id, headers in asker.letters().items()
        } == letters
        for model in models.values():
            assert sum(delta.breaker_opened for delta in asker.deltas(model)) == 0
    assert reached == []


def check(response: PredictResponse, fault: Fault, code: ErrorCode | None) -> None:
    """One request that its server fails for."""
    if code is None:
        assert response.error is None, (fault, response)
        return
    assert response.error is not None, (fault, response)
    assert response.error.code == code, (fault, response)
    assert len(response.error.message) < 300
    if fault in HANG:
        assert response.latency_ms >= TIMEOUT_MS
        assert response.error.message == f"no prediction within {TIMEOUT_MS / 1000:g} s"


async def test_a_bad_answer_in_a_batch_is_its_own(
    topics: MakeTopics, database: str, start_worker: StartWorker
) -> None:
    """The others of the batch are asked for again, in smaller ones."""
    settings = await topics(PARTITIONS, postgres_dsn=database)
    server = BrokenServer()
    async with http_server(server.handle) as url, asking(settings) as asker:
        models = [
            await serve(database, url + PATHS[framework], framework=framework, timeout_ms=30_000)
            for framework in ("open-inference", "tensorflow")
        ]
        worker = start_worker(settings)
        await worker.ready()
        bad = [Fault.ANSWERS_500, Fault.WRONG_JSON, Fault.NAN, Fault.CLOSES_EARLY, Fault.TOO_MANY_PREDICTIONS]
        xs = [bad[x // 60] if x % 60 == 30 else 100 + x for x in range(60 * len(bad))]
        for model in models:
            server.asked.clear()
            for x, response in zip(xs, await asker.ask(model, xs), strict=True):
                if x in bad:
                    assert response.error is not None
                    assert response.error.code == ERROR
                else:
                    assert response.predictions == 2 * x
            assert len(server.asked) > len(xs)
        worker.terminate()
        assert await worker.ended() == 0
        await asker.ended()
        assert len(asker.letters()) == len(models) * len(bad)


@pytest.mark.parametrize("fault", [Fault.ANSWERS_500, Fault.HANGS, Fault.CLOSES_AT_ONCE, Fault.ANSWERS_503])
async def test_a_server_that_is_down_is_spared_until_it_is_back(
    topics: MakeTopics, database: str, start_worker: StartWorker, fault: Fault
) -> None:
    """After failures in a row it gets probes only; users get an error at once, and predictions when it is back."""
    settings = await topics(PARTITIONS, postgres_dsn=database, metrics_interval_seconds=0.25)
    server = BrokenServer()
    async with http_server(server.handle) as url, asking(settings) as asker:
        model = await serve(database, url + PATHS["open-inference"], cache_ttl_seconds=0)
        worker = start_worker(settings)
        await worker.ready()
        assert [answer.predictions for answer in await asker.ask(model, [100])] == [200]
        server.down = fault
        for x in range(BREAKER.failures):
            (failed,) = await asker.ask(model, [200 + x])
            check(failed, fault, CODES[fault])
        server.asked.clear()
        loop = asyncio.get_running_loop()
        start = loop.time()
        refused = await asker.ask(model, range(1000, 1200))
        spared = [response for response in refused if response.error and SPARED in response.error.message]
        for response in refused:
            assert response.error is not None
            assert response.error.code in (UNAVAILABLE, CODES[fault])
        assert {response.error.code for response in spared if response.error} == {UNAVAILABLE}
        # The others are those of a probe.
        assert len(spared) >= len(refused) - len(server.asked)
        probes = 1 + (loop.time() - start) / BREAKER.open_seconds
        assert len(server.asked) <= MAX_TRIES * probes

        server.down = None

        async def is_back() -> bool:
            return (await asker.ask(model, [100]))[0].error is None

        await wait_until(is_back, "an answer by the server that is back")
        whole = await asker.ask(model, range(2000, 2200))
        assert [response.predictions for response in whole] == [2 * x for x in range(2000, 2200)]
        worker.terminate()
        assert await worker.ended() == 0
        await asker.ended()
        assert sum(delta.breaker_opened for delta in asker.deltas(model)) == 1


async def test_big_answers_take_bounded_memory(
    topics: MakeTopics, database: str, start_worker: StartWorker
) -> None:
    """A body with a length above the limit is not read, others are read up to the limit; the memory is released."""
    settings = await topics(PARTITIONS, postgres_dsn=database)
    server = BrokenServer()
    async with http_server(server.handle) as url, asking(settings) as asker:
        model = await serve(
            database, url + PATHS["open-inference"], max_batch=1, timeout_ms=30_000, cache_ttl_seconds=0
        )
        worker = start_worker(settings)
        await worker.ready()
        process = psutil.Process(worker.pid)
        assert [response.predictions for response in await asker.ask(model, range(100, 200))] == [
            2 * x for x in range(100, 200)
        ]
        before = process.memory_info().rss
        peaks: dict[Fault, int] = {}

        def note(seen: list[int]) -> None:
            seen.append(process.memory_info().rss)

        for fault in (Fault.BIG_AS_TOLD, Fault.BIG_UNTOLD):
            seen = [before]
            server.while_big = partial(note, seen)
            for _ in range(3):
                # Equal inputs of a partition share a call; a good one behind them ends the row of failures.
                for response in await asker.ask(model, [fault] * 4):
                    assert response.error is not None
                    assert response.error.code == ERROR
                    assert (
                        response.error.message
                        == f"the model server answered more than {MAX_RESPONSE_BYTES} bytes"
                    )
                (good,) = await asker.ask(model, [300])
                assert good.predictions == 600
            peaks[fault] = max(seen) - before
        after = process.memory_info().rss
        assert peaks[Fault.BIG_AS_TOLD] < 32 * MIB
        assert peaks[Fault.BIG_UNTOLD] < 4 * BIG_BYTES
        assert after - before < 32 * MIB
        worker.terminate()
        assert await worker.ended() == 0


async def test_an_expired_certificate(
    topics: MakeTopics, database: str, start_worker: StartWorker, certificates: Certificates
) -> None:
    """A version is not loaded by one, and not called by one any more; with a new one it is called again."""
    settings = await topics(PARTITIONS, postgres_dsn=database, backend_ssl_cafile=str(certificates.ca))
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificates.server_certificate, certificates.server_key)
    expired = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    expired.load_cert_chain(certificates.expired_certificate, certificates.server_key)

    async def handle(request: HttpRequest, writer: StreamWriter) -> bool:
        """One request a connection, so that each meets the certificate of its time."""
        writer.write(answer(METADATA if request.method == "GET" else doubled(request), headers=CLOSING))
        return False

    async with (
        http_server(handle, tls) as url,
        http_server(handle, expired) as expired_url,
        asking(settings) as asker,
    ):
        path = PATHS["open-inference"]
        model = await serve(database, url + path, cache_ttl_seconds=0)
        never = await serve(database, expired_url + path)
        worker = start_worker(settings)
        await worker.ready()
        assert "certificate has expired" in worker.log
        (response,) = await asker.ask(never, [1])
        assert response.error is not None
        assert response.error.code == UNAVAILABLE
        assert response.error.message == "v1 is not loaded on this worker; its log says why"

        assert [response.predictions for response in await asker.ask(model, [1, 2])] == [2, 4]
        tls.load_cert_chain(certificates.expired_certificate, certificates.server_key)
        (response,) = await asker.ask(model, [1])
        assert response.error is not None
        assert response.error.code == UNAVAILABLE
        assert "certificate has expired" in response.error.message
        tls.load_cert_chain(certificates.server_certificate, certificates.server_key)
        assert [response.predictions for response in await asker.ask(model, [1, 2])] == [2, 4]
        worker.terminate()
        assert await worker.ended() == 0
