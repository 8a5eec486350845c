"""The benchmark environment: a stack of its own, and one model with two versions, 90 to 10."""

import asyncio
import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from deploy.local.stack import LocalStack
from registry.migrate import migrate
from registry.store import RegistryStore
from schemas.models import PromotionEvent

from .answers import Model
from .recommender import Recommender
from .workload import INPUT_SCHEMA, MODEL_NAME, OUTPUT_SCHEMA

_SEEDS = {"v1": 1, "v2": 2}
# Longer than any run: what a cold round has cached is there for the warm one.
_CACHE_TTL_SECONDS = 86_400


@dataclass(frozen=True, slots=True)
class Environment:
    """Addresses of the stack, and the model; `model_file` describes it for the peers."""

    folder: Path
    kafka_bootstrap: str
    postgres_dsn: str
    redis_url: str
    model: Model
    model_file: Path


@contextmanager
def prepare(parent: Path, report: Callable[[str], None]) -> Iterator[Environment]:
    """Start a stack in a new folder below `parent` and register the model; all of it ends with the block."""
    with TemporaryDirectory(prefix="environment-", dir=parent) as name:
        folder = Path(name)
        with LocalStack(folder / "stack", report) as stack:
            asyncio.run(migrate(stack.postgres_dsn))
            yield asyncio.run(
                register_model(
                    folder,
                    kafka_bootstrap=stack.kafka_bootstrap,
                    postgres_dsn=stack.postgres_dsn,
                    redis_url=stack.redis_url,
                )
            )


async def register_model(
    folder: Path, *, kafka_bootstrap: str, postgres_dsn: str, redis_url: str
) -> Environment:
    """Register the model on a stack that runs, its files below `folder`."""
    recommenders = {version: Recommender.random(seed) for version, seed in _SEEDS.items()}
    artifacts = {version: folder / f"{version}.onnx" for version in _SEEDS}
    store = await RegistryStore.connect(postgres_dsn)
    try:
        for version, recommender in recommenders.items():
            await _apply(store, "register", model=_spec(version, recommender, artifacts[version]))
        await _apply(store, "promote", version="v1")
        await _apply(store, "canary", version="v2", weight=10)
        registered = await store.find(MODEL_NAME)
    finally:
        await store.close()
    assert registered is not None
    model = Model(registered.route, registered.revision, recommenders)
    model_file = _describe(folder / "model.json", model, artifacts)
    return Environment(folder, kafka_bootstrap, postgres_dsn, redis_url, model, model_file)


def _spec(version: str, recommender: Recommender, artifact: Path) -> dict[str, Any]:
    return {
        "version": version,
        "framework": "onnx",
        "artifact_sha256": recommender.save(artifact),
        "artifact_uri": artifact.absolute().as_uri(),
        "input_schema": INPUT_SCHEMA,
        "output_schema": OUTPUT_SCHEMA,
        "cache_ttl_seconds": _CACHE_TTL_SECONDS,
    }


async def _apply(store: RegistryStore, action: str, **fields: Any) -> None:
    document = {"event_id": str(uuid.uuid4()), "model_name": MODEL_NAME, "action": action, "actor": "bench"}
    result = await store.apply(PromotionEvent.model_validate(document | fields))
    assert result.status == "applied", result.error


def _describe(path: Path, model: Model, artifacts: dict[str, Path]) -> Path:
    document = {
        "revision": model.revision,
        "route": model.route.model_dump(mode="json"),
        "input_schema": INPUT_SCHEMA,
        "artifacts": {version: str(artifact) for version, artifact in artifacts.items()},
    }
    path.write_text(json.dumps(document))
    return path
