"""Promotion events for tests, as an operator would write them."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from aiokafka import AIOKafkaProducer

from schemas.events import JsonObject
from schemas.models import PromotionEvent
from streams.config.settings import Settings
from tests.support.deadline import wait_until


def spec(version: str, **fields: Any) -> dict[str, Any]:
    """`model` of an event `register`."""
    return {
        "version": version,
        "framework": "open-inference",
        "endpoint": "http://127.0.0.1:9",
        "input_schema": {"type": "object"},
        "output_schema": {},
        **fields,
    }


def document(action: Any, model_name: Any = "m", **fields: Any) -> JsonObject:
    """An event with an id of its own, as JSON has it; a field that is `...` is left out."""
    whole = {"event_id": str(uuid.uuid4()), "model_name": model_name, "action": action, "actor": "op"}
    return {name: value for name, value in (whole | fields).items() if value is not ...}


def event(action: str, model_name: str = "m", **fields: Any) -> PromotionEvent:
    """An event with an id of its own."""
    return PromotionEvent.model_validate(document(action, model_name, **fields))


async def publish(settings: Settings, *events: PromotionEvent) -> None:
    """Write events to their topic, one behind the other."""
    async with AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap) as producer:
        for one in events:
            body = one.model_dump_json(exclude_none=True).encode()
            await producer.send_and_wait(settings.topic_promotions, body, key=one.model_name.encode())


@asynccontextmanager
async def connection_killed_at_the_lock(connection: asyncpg.Connection) -> AsyncIterator[None]:
    """Hold the lock of all promotions, and end the connection of the one that comes to wait for it."""
    async with connection.transaction():
        await connection.execute("SELECT epoch FROM control_epoch FOR UPDATE")
        killing = asyncio.create_task(_kill_waiting(connection))
        yield
        await killing


async def _kill_waiting(connection: asyncpg.Connection) -> None:
    async def killed() -> Any:
        return await connection.fetchval(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_locks"
            " WHERE NOT granted AND pg_backend_pid() = ANY(pg_blocking_pids(pid))"
        )

    await wait_until(killed, "a promotion at the lock")
