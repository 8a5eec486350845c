"""Responses as workers write them, and what the prediction log has of them."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import orjson
from aiokafka import AIOKafkaProducer

from schemas.events import JsonObject
from streams.config.settings import Settings
from tests.support.deadline import wait_until
from tests.support.kafka.topic_log import unlogged_responses

DAY = timedelta(days=1)
DIGEST = "0123456789abcdef0123456789abcdef"


def midnight(days_ago: int = 0) -> datetime:
    """The beginning of a day in UTC."""
    return datetime.combine(datetime.now(UTC).date() - days_ago * DAY, datetime.min.time(), UTC)


def response(number: int = 0, **fields: Any) -> JsonObject:
    """A response to request `number`; a field that is None is left out."""
    document = {
        "request_id": f"r{number}",
        "model_name": "m",
        "model_version": "v1",
        "user_id": f"u{number}",
        "predictions": [number, 1.5],
        "latency_ms": 2.5,
        "cached": False,
        "revision": 3,
        "stale": False,
        "fallback": False,
    } | fields
    return {name: value for name, value in document.items() if value is not None}


def headers_of(source: str, digest: str = DIGEST) -> list[tuple[str, bytes]]:
    return [
        ("headrace-source", source.encode()),
        ("headrace-input-digest", digest.encode()),
        ("content-type", b"application/json"),
    ]


@dataclass(frozen=True)
class Written:
    """A record to be written to the topic of responses."""

    value: bytes | None
    timestamp_ms: int
    headers: list[tuple[str, bytes]] = field(default_factory=list)
    partition: int = 0


async def write_responses(settings: Settings, *records: Written) -> None:
    """Returns when the broker has them all."""
    async with AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap) as producer:
        deliveries = [
            await producer.send(
                settings.topic_responses,
                record.value,
                key=b"u",
                partition=record.partition,
                timestamp_ms=record.timestamp_ms,
                headers=record.headers,
            )
            for record in records
        ]
        await asyncio.gather(*deliveries)


def written(document: Mapping[str, Any], source: str, timestamp_ms: int, partition: int = 0) -> Written:
    return Written(orjson.dumps(document), timestamp_ms, headers_of(source), partition)


async def until_logged(settings: Settings, partitions: int) -> None:
    """Wait until the log workers have acknowledged every response that there is."""

    async def all_logged() -> bool:
        return not await unlogged_responses(settings, partitions)

    await wait_until(all_logged, "acknowledgements of all responses")


async def logged(dsn: str) -> list[asyncpg.Record]:
    """The rows, by the places of their requests."""
    return await fetch(
        dsn, "SELECT * FROM prediction_log ORDER BY source_topic, source_partition, source_offset, day"
    )


async def count_logged(dsn: str) -> int:
    (row,) = await fetch(dsn, "SELECT count(*) AS rows FROM prediction_log")
    return int(row["rows"])


async def days(dsn: str) -> list[str]:
    """The names of the days' tables."""
    query = "SELECT inhrelid::regclass::text AS name FROM pg_inherits WHERE inhparent = 'prediction_log'::regclass"
    return sorted(row["name"] for row in await fetch(dsn, query))


async def fetch(dsn: str, query: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(dsn)
    try:
        found: list[asyncpg.Record] = await connection.fetch(query)
    finally:
        await connection.close()
    return found
