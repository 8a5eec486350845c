"""A Redis that others use too: no answer has the predictions of another installation, or what another program wrote."""

from pathlib import Path

import asyncpg
import pytest
from redis.asyncio import Redis as RedisClient

from deploy.local.redis import Redis
from streams.clients.predict_client import PredictClient
from streams.config.settings import Settings
from tests.support.models.served_model import apply, predictions_of, spec_of
from tests.support.promotions.events import event
from tests.support.stack.services import MakeTopics, StackAddresses, own_database
from tests.support.worker.process import StartWorker

MODEL = "shared"


async def register(dsn: str, folder: Path, artifact: str) -> None:
    """Serve this artifact as v1."""
    model = {**spec_of(folder, artifact), "version": "v1"}
    await apply(dsn, event("register", MODEL, model=model), event("promote", MODEL, version="v1"))


async def copy_identity(source: str, target: str) -> None:
    """What a restored backup brings."""
    connections = [await asyncpg.connect(dsn) for dsn in (source, target)]
    row = await connections[0].fetchrow("SELECT installation_id, cache_secret FROM installation")
    await connections[1].execute("UPDATE installation SET installation_id = $1, cache_secret = $2", *row)
    for connection in connections:
        await connection.close()


async def twice(settings: Settings) -> list[tuple[object, bool]]:
    """The predictions for one input, asked for two times, and whether they were cached."""
    async with PredictClient(settings) as client:
        responses = [await client.predict(MODEL, user_id="u", input={"x": 5}) for _ in range(2)]
    return [(response.predictions, response.cached) for response in responses]


@pytest.mark.parametrize("is_restored", [False, True], ids=["two installations", "a restored registry"])
async def test_a_version_of_the_same_name_has_predictions_of_its_own(
    topics: MakeTopics,
    stack: StackAddresses,
    own_redis: Redis,
    start_worker: StartWorker,
    tmp_path: Path,
    *,
    is_restored: bool,
) -> None:
    """Model, version and input are the same, the artifact differs: each registry's worker answers by its own."""
    async with own_database(stack) as one, own_database(stack) as other:
        await register(one, tmp_path, "v1")
        await register(other, tmp_path, "v2")
        if is_restored:
            await copy_identity(one, other)
        for dsn, artifact in ((one, "v1"), (other, "v2")):
            settings = await topics(
                1,
                postgres_dsn=dsn,
                redis_url=own_redis.url,
                redis_timeout_seconds=10.0,
                artifact_dir=str(tmp_path / "artifacts"),
            )
            worker = start_worker(settings, roles="predict")
            await worker.ready()
            expected = predictions_of(artifact, 5)
            assert await twice(settings) == [(expected, False), (expected, True)]
            worker.terminate()
            assert await worker.ended() == 0


async def test_what_another_program_wrote_reaches_no_answer(
    topics: MakeTopics, database: str, own_redis: Redis, start_worker: StartWorker, tmp_path: Path
) -> None:
    """JSON that would add fields to the answer: the model predicts instead, and its prediction is cached again."""
    await register(database, tmp_path, "v1")
    settings = await topics(
        1,
        postgres_dsn=database,
        redis_url=own_redis.url,
        redis_timeout_seconds=10.0,
        artifact_dir=str(tmp_path / "artifacts"),
    )
    worker = start_worker(settings, roles="predict")
    await worker.ready()
    expected = predictions_of("v1", 5)
    assert await twice(settings) == [(expected, False), (expected, True)]
    async with RedisClient.from_url(own_redis.url) as client:
        (key,) = await client.keys("headrace:*:pred:*")
        await client.set(key, b'[0,0,0],"model_version":"v9","request_id":"VICTIM","user_id":"alice"')
    assert await twice(settings) == [(expected, False), (expected, True)]
    assert worker.count("prediction cache has foreign values; they count as misses") == 1
