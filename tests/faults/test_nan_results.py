"""Results with NaN in a backlog: each fails its own request, and no other."""

import hashlib
import uuid
from pathlib import Path

from onnx import helper

from schemas.events import ErrorCode
from tests.support.models.onnx_files import FLOAT, save_model, value
from tests.support.models.served_model import apply
from tests.support.promotions.events import event, spec
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
