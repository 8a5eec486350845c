"""A registry of 1,000 models with 10 versions each, and a model server for all of them."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg

from deploy.local.process import ChildProcess
from deploy.local.service import HOST, free_ports
from registry.store import RegistryStore
from schemas.models import PromotionResult
from tests.support.promotions.events import event

MODELS, VERSIONS = 1000, 10
_START_SECONDS = 10.0
_SCHEMA = {
    "type": "object",
    "properties": {"x": {"type": "array", "items": {"type": "number"}}},
    "required": ["x"],
    "additionalProperties": False,
}
_VERSION_COLUMNS = "version, spec, status, created_at"
_ROUTE_COLUMNS = "revision, salt, ranges, event_id, created_at"
# A rollback target is one of the versions, which have to be there first.
_COPIES = f"""
    INSERT INTO models SELECT 'm' || n, revision, NULL, created_at, changed_epoch
        FROM models, generate_series(1, %d) n;
    INSERT INTO model_versions (model_name, {_VERSION_COLUMNS}) SELECT 'm' || n, {_VERSION_COLUMNS}
        FROM model_versions, generate_series(1, %d) n ORDER BY n, ordinal;
    INSERT INTO routes (model_name, {_ROUTE_COLUMNS}) SELECT 'm' || n, {_ROUTE_COLUMNS}
        FROM routes, generate_series(1, %d) n;
    UPDATE models SET previous_production = 'v0';
"""


def model_name(number: int) -> str:
    return f"m{number}"


async def fill(dsn: str, endpoint: str, models: int = MODELS) -> None:
    """Register this many models: v1 in production, v2 its canary, v0 the rollback target, the others idle."""
    store = await RegistryStore.connect(dsn)
    try:
        for version in range(VERSIONS):
            await apply(store, "register", model_name(0), model=_spec(f"v{version}", endpoint))
        await apply(store, "promote", model_name(0), version="v0")
        await apply(store, "promote", model_name(0), version="v1")
        await apply(store, "canary", model_name(0), version="v2", weight=10)
    finally:
        await store.close()
    connection = await asyncpg.connect(dsn)
    try:
        async with connection.transaction():
            await connection.execute(_COPIES % ((models - 1,) * 3))
        await connection.execute("ANALYZE")
    finally:
        await connection.close()


async def apply(store: RegistryStore, action: str, name: str, **fields: Any) -> PromotionResult:
    """Have an event decided that must be applied."""
    result = await store.apply(event(action, name, **fields))
    assert result.status == "applied", result.error
    return result


def _spec(version: str, endpoint: str) -> dict[str, Any]:
    return {
        "version": version,
        "framework": "open-inference",
        "endpoint": endpoint,
        "input_schema": _SCHEMA,
        "output_schema": {"type": "number"},
    }


@contextmanager
def model_server(folder: Path) -> Iterator[str]:
    """The endpoint of a model server that is a process of its own."""
    port = free_ports(1)[0]
    command = [sys.executable, "-m", "tests.bench.registry_models", HOST, str(port)]
    child = ChildProcess("model-server", command, log=folder / "model-server.log")
    try:
        child.wait_for_line(b"serves", _START_SECONDS)
        yield f"http://{HOST}:{port}/v2/models/m"
    finally:
        child.kill()
        child.close()
