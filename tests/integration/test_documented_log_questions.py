"""The questions of docs/prediction-log.md, word for word, to a real database with rows as workers write them."""

import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import orjson
import pytest

from registry.logged_predictions import LoggedPrediction
from registry.postgres import Database
from registry.prediction_log import PredictionLog
from streams.prediction_log.rows import RowReader
from tests.support.models.served_versions import record_of
from tests.support.worker.prediction_rows import headers_of, response

_PAGE = (Path(__file__).parents[2] / "docs" / "prediction-log.md").read_text(encoding="utf-8")
MODEL = "movie-recommendations"
# Between them it is another day than in UTC at every moment.
ZONES = ("UTC", "Pacific/Kiritimati", "Etc/GMT+12")
FAILED: dict[str, Any] = {"predictions": None, "error": {"code": "BACKEND_ERROR", "message": "m"}}


def questions() -> dict[str, str]:
    """Each block of SQL by the line before it."""
    found = re.findall(r"\n([^\n]+):\n\n```sql\n(.*?)```", _PAGE, re.DOTALL)
    assert len(found) == _PAGE.count("```sql") == 3
    return dict(found)


def row(
    number: int, user: str, version: str, ago: timedelta = timedelta(), **fields: Any
) -> LoggedPrediction:
    document = response(number, model_name=MODEL, user_id=user, model_version=version, **fields)
    at = datetime.now(UTC) - ago
    record = record_of(
        orjson.dumps(document),
        timestamp=int(at.timestamp() * 1000),
        headers=headers_of(f"requests/0/{number}"),
    )
    return RowReader(str, keeps_predictions=False).row(record)


@pytest.fixture
async def log(one_day: None, database: str) -> AsyncIterator[PredictionLog]:
    """A log with the answers to some users, today and the day before yesterday."""
    opened = await Database.connect(database)
    log = PredictionLog(opened)
    rows = [
        row(1, "u1", "v1"),
        row(2, "u1", "v1", cached=True),
        row(3, "u1", "v1", **FAILED),
        row(4, "u1", "v1", timedelta(days=2), **FAILED),
        row(5, "u2", "v2"),
        # Production answered for v2, whose user u3 is.
        row(6, "u3", "v2"),
        row(7, "u3", "v1", fallback=True),
        # No version was reached; another model; after a promotion.
        row(8, "u2", "", **FAILED),
        row(9, "u2", "v1", revision=4),
    ]
    await log.add(0, [*rows, row(10, "u1", "v1")._replace(model_name="another", error_code="INTERNAL")])
    yield log
    await opened.close()


async def ask(dsn: str, question: str, zone: str) -> list[tuple[Any, ...]]:
    connection = await asyncpg.connect(dsn, server_settings={"timezone": zone})
    try:
        return [tuple(found) for found in await connection.fetch(questions()[question])]
    finally:
        await connection.close()


@pytest.mark.parametrize("zone", ZONES)
async def test_the_share_of_errors_is_that_of_today(log: PredictionLog, database: str, zone: str) -> None:
    """By the days of the table, which are UTC, wherever the session is."""
    found = await ask(database, "The share of errors of each version, today", zone)
    assert [(version, count, float(errors)) for version, count, errors in found] == [
        ("", 1, 1.0),
        ("v1", 5, 0.2),
        ("v2", 2, 0.0),
    ]


async def test_what_one_user_got_begins_with_the_latest(log: PredictionLog, database: str) -> None:
    """Of this model only."""
    found = await ask(database, "What one user got", "UTC")
    times = [each[0] for each in found]
    assert times == sorted(times, reverse=True)
    assert {each[1:] for each in found[:-1]} == {
        ("v1", False, None),
        ("v1", True, None),
        ("v1", False, "BACKEND_ERROR"),
    }
    assert found[-1][1:] == ("v1", False, "BACKEND_ERROR")
    assert len(found) == 4


async def test_a_user_who_changed_versions_is_found(log: PredictionLog, database: str) -> None:
    """None does by itself: not by production's help, nor by a promotion."""
    question = "Users who changed versions without a promotion (the result is empty)"
    assert await ask(database, question, "UTC") == []
    await log.add(0, [row(11, "u2", "v1")])
    assert await ask(database, question, "UTC") == [(MODEL, "u2", 3, 2)]
