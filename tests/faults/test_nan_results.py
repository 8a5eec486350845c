"""Results with NaN in a backlog: each fails its own request, and no other."""

import hashlib
import uuid
from asyncio import StreamWriter
from pathlib import Path

import pytest
from onnx import helper

from schemas.events import ErrorCode
from tests.support.models.onnx_files import FLOAT, save_model, value
from tests.support.models.served_model import apply
from tests.support.promotions.events import event, spec
from tests.support.servers.http_server import METADATA, HttpRequest, answer, asked, doubled, http_server
from tests.support.stack.services import MakeTopics
from tests.support.worker.asking import PARTITIONS, asking
from tests.support.worker.process import StartWorker

REQUESTS = 2000
EVERY = 33


async def test_many_nan_results_of_a_model(
    topics: MakeTopics, database: str, start_worker: StartWorker, tmp_path: Path
) -> None:
    """3% of the requests have no logarithm."""
    path = save_model(
        tmp_path / "m.onnx",
        [helper.make_node("Log", ["x"], ["y"])],
        [value("x", FLOAT, ["N"])],
        [value("y", FLOAT, ["N"])],
    )
    settings = await topics(PARTITIONS, postgres_dsn=database)
    name = f"m-{uuid.uuid4().hex[:12]}"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    version = spec(
        "v1", framework="onnx", artifact_uri=path.as_uri(), artifact_sha256=digest, cache_ttl_seconds=0
    )
    await apply(database, event("register", name, model=version), event("promote", name, version="v1"))
    xs = [-float(number) if number % EVERY == 1 else float(number) for number in range(1, REQUESTS + 1)]
    async with asking(settings) as asker:
        ids = await asker.send(name, xs)
        worker = start_worker(settings)
        await worker.ready()
        responses = await asker.answers(ids)
        worker.terminate()
        assert await worker.ended() == 0
        await asker.ended()
        letters = len(asker.letters())
    failed = [x for x, response in zip(xs, responses, strict=True) if response.error is not None]
    assert failed == [x for x in xs if x < 0]
    assert {response.error.code for response in responses if response.error} == {ErrorCode.BACKEND_ERROR}
    assert letters == len(failed)


@pytest.mark.parametrize(
    "bad", [answer({"error": "no logarithm"}, 500), answer(b'{"predictions": [NaN]}')], ids=["500", "NaN"]
)
async def test_bad_inputs_of_one_sender_do_not_take_a_version_from_others(
    topics: MakeTopics, database: str, start_worker: StartWorker, bad: bytes
) -> None:
    """A server that answers 500, or a body that is not of its protocol; a bad input gets two calls at most."""
    seen: list[int] = []

    async def serve(request: HttpRequest, writer: StreamWriter) -> None:
        if request.method == "GET":
            writer.write(answer(METADATA))
            return
        seen.extend(asked(request))
        writer.write(bad if min(asked(request)) < 0 else answer(doubled(request)))

    settings = await topics(PARTITIONS, postgres_dsn=database, metrics_interval_seconds=0.25)
    name = f"m-{uuid.uuid4().hex[:12]}"
    async with http_server(serve) as url, asking(settings) as asker:
        version = spec("v1", endpoint=f"{url}/v2/models/m", cache_ttl_seconds=0)
        await apply(database, event("register", name, model=version), event("promote", name, version="v1"))
        worker = start_worker(settings)
        await worker.ready()
        for x in (5, -1, -2, -3, -4, -5, -6, -7, 8, -1, -1, -1, 9, 10):
            (response,) = await asker.ask(name, [x])
            if x > 0:
                assert response.predictions == 2 * x
            else:
                assert response.error is not None
                assert response.error.code == ErrorCode.BACKEND_ERROR
        assert seen.count(-1) == 2
        worker.terminate()
        assert await worker.ended() == 0
        await asker.ended()
        assert sum(delta.input_faults for delta in asker.deltas(name)) == 10
        assert sum(delta.breaker_opened for delta in asker.deltas(name)) == 0
