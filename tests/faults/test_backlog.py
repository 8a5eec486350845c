"""A backlog that waited for its worker is worked off with nothing failed, though a full batch would take too long."""

import asyncio
import hashlib
import uuid
from asyncio import StreamWriter
from pathlib import Path
from typing import Any

from schemas.events import JsonObject
from tests.support.models.onnx_files import save_doubler
from tests.support.models.served_model import apply
from tests.support.promotions.events import event, spec
from tests.support.servers.http_server import METADATA, HttpRequest, answer, asked, doubled, http_server
from tests.support.stack.services import MakeTopics
from tests.support.worker.asking import PARTITIONS, asking
from tests.support.worker.process import StartWorker

REQUESTS = 5000
TIMEOUT_MS = 2000
# A full batch of a server, 256 examples, would take 2.6 s.
EXAMPLE_SECONDS = 0.01
# About 1 ms for each example: a full batch of a model, 2048 examples, would take longer than the timeout.
ROUNDS = 1000


async def serve_slowly(request: HttpRequest, writer: StreamWriter) -> None:
    """Double each `x`, with calls in parallel, and with time for each example."""
    if request.method == "GET":
        writer.write(answer(METADATA))
        return
    await asyncio.sleep(EXAMPLE_SECONDS * len(asked(request)))
    writer.write(answer(doubled(request)))


async def ask_before_the_worker_starts(
    topics: MakeTopics, database: str, start_worker: StartWorker, version: JsonObject, xs: list[Any]
) -> list[Any]:
    """The predictions for a backlog; the worker starts when all of it is in the topic."""
    settings = await topics(PARTITIONS, postgres_dsn=database)
    name = f"m-{uuid.uuid4().hex[:12]}"
    await apply(database, event("register", name, model=version), event("promote", name, version="v1"))
    async with asking(settings) as asker:
        ids = await asker.send(name, xs)
        worker = start_worker(settings)
        await worker.ready()
        responses = await asker.answers(ids)
        worker.terminate()
        assert await worker.ended() == 0
        await asker.ended()
        assert asker.letters() == {}
    return [response.predictions for response in responses]


async def test_before_a_slow_server(topics: MakeTopics, database: str, start_worker: StartWorker) -> None:
    """Each example takes it 10 ms."""
    async with http_server(serve_slowly) as url:
        version = spec("v1", endpoint=f"{url}/v2/models/m", timeout_ms=TIMEOUT_MS, cache_ttl_seconds=0)
        xs = list(range(REQUESTS))
        predictions = await ask_before_the_worker_starts(topics, database, start_worker, version, xs)
    assert predictions == [2 * x for x in xs]


async def test_before_a_slow_model(
    topics: MakeTopics, database: str, start_worker: StartWorker, tmp_path: Path
) -> None:
    """In the worker's process; each example counts to a number."""
    path = save_doubler(tmp_path / "m.onnx", rounds_of_example=ROUNDS)
    version = {
        **spec("v1", framework="onnx", timeout_ms=TIMEOUT_MS, cache_ttl_seconds=0),
        "artifact_uri": path.as_uri(),
        "artifact_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    xs = list(range(REQUESTS))
    predictions = await ask_before_the_worker_starts(topics, database, start_worker, version, xs)
    assert predictions == [2 * x for x in xs]
