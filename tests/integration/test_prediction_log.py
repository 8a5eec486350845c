"""The role `log` on the real stack: each response once, by days that come and go."""

import asyncio
import hashlib
import hmac
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import asyncpg
import orjson
import pytest

from registry.logged_predictions import LoggedPrediction
from registry.postgres import Database
from registry.prediction_log import PredictionLog
from schemas.errors import RegistryUnavailableError, SetupError
from streams.clients.predict_client import PredictClient
from streams.prediction_log.rows import RowReader
from tests.support.models.served_model import predictions_of, serve_model
from tests.support.models.served_versions import record_of
from tests.support.stack.services import MakeTopics, execute
from tests.support.worker.prediction_rows import (
    DAY,
    Written,
    count_logged,
    days,
    fetch,
    headers_of,
    logged,
    midnight,
    response,
    until_logged,
    write_responses,
    written,
)
from tests.support.worker.process import StartWorker

PARTITIONS = 2
pytestmark = pytest.mark.usefixtures("one_day")


@pytest.fixture
async def rows(database: str) -> AsyncIterator[PredictionLog]:
    """The log of an empty registry."""
    opened = await Database.connect(database)
    yield PredictionLog(opened)
    await opened.close()


def ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def row(number: int, at: datetime, request_id: str | None = None) -> LoggedPrediction:
    """Of the response to the request with this offset."""
    value = orjson.dumps(response(number, request_id=request_id or f"r{number}"))
    headers = headers_of(f"requests/0/{number}")
    return RowReader(str, keeps_predictions=False).row(record_of(value, timestamp=ms(at), headers=headers))


def named(day: date) -> str:
    return f"prediction_log_{day:%Y%m%d}"


async def test_what_is_asked_is_logged(
    topics: MakeTopics, database: str, start_worker: StartWorker, tmp_path: Path
) -> None:
    """Predictions, hits and errors, as the client got them; predictions only because the setting asks for them."""
    model = await serve_model(database, tmp_path)
    settings = await topics(PARTITIONS, postgres_dsn=database, artifact_dir=str(tmp_path / "artifacts"))
    silent = settings.model_copy(update={"log_group_id": f"silent-{settings.log_group_id}"})
    workers = [start_worker(settings, role) for role in ("predict", "log")]
    for worker in workers:
        await worker.ready()
    began = datetime.now(UTC)
    async with PredictClient(settings) as client:
        first = await client.predict(model, user_id="u1", input={"x": 3})
        hit = await client.predict(model, user_id="u2", input={"x": 3})
        refused = await client.predict(model, user_id="u3", input={"x": "secret-input"})
    await until_logged(settings, PARTITIONS)
    by_id = {found["request_id"]: found for found in await logged(database)}
    assert len(by_id) == 3
    for answer in (first, hit, refused):
        found = by_id[answer.request_id]
        for name in ("model_name", "model_version", "user_id", "cached", "fallback", "stale", "revision"):
            assert found[name] == getattr(answer, name)
        assert found["latency_ms"] == answer.latency_ms
        assert found["error_code"] == (answer.error.code if answer.error else None)
        assert found["predictions"] is None
        assert found["source_topic"] == settings.topic_requests
        assert began - timedelta(seconds=1) <= found["responded_at"] <= found["logged_at"]
        assert found["day"] == found["responded_at"].date()
        assert "secret-input" not in str(dict(found))
    assert by_id[first.request_id]["input_digest"] == by_id[hit.request_id]["input_digest"] is not None
    assert by_id[refused.request_id]["input_digest"] is None
    for worker in workers:
        worker.terminate()
        assert await worker.ended() == 0

    await fetch(database, "TRUNCATE prediction_log")
    keeping = start_worker(silent.model_copy(update={"prediction_log_keeps_predictions": True}), "log")
    await until_logged(silent, PARTITIONS)
    kept = {found["request_id"]: found["predictions"] for found in await logged(database)}
    assert (
        orjson.loads(kept[first.request_id]) == orjson.loads(kept[hit.request_id]) == predictions_of("v1", 3)
    )
    assert kept[refused.request_id] is None
    keeping.terminate()
    assert await keeping.ended() == 0


async def test_a_repeat_counts_once_also_after_midnight(
    topics: MakeTopics, database: str, start_worker: StartWorker
) -> None:
    """Within a slice and long after, on the same day and on the next; the first row stays."""
    settings = await topics(1, postgres_dsn=database)
    before, after = ms(midnight()) - 1, ms(midnight())
    worker = start_worker(settings, "log")
    first = [
        written(response(1, latency_ms=1), "requests/0/1", before),
        written(response(1, latency_ms=2), "requests/0/1", after),
        written(response(2, latency_ms=3), "requests/0/2", before),
        written(response(3, latency_ms=4), "requests/0/3", after),
    ]
    await write_responses(settings, *first)
    await until_logged(settings, 1)
    repeats = [
        written(response(2, latency_ms=5), "requests/0/2", before),
        written(response(2, latency_ms=6), "requests/0/2", after),
        written(response(3, latency_ms=7), "requests/0/3", before),
        written(response(4, latency_ms=8), "requests/0/4", after),
    ]
    await write_responses(settings, *repeats)
    await until_logged(settings, 1)
    yesterday, today = midnight(1).date(), midnight().date()
    expected = [(1, yesterday, 1.0), (2, yesterday, 3.0), (3, today, 4.0), (4, today, 8.0)]
    found = await logged(database)
    assert [(each["source_offset"], each["day"], each["latency_ms"]) for each in found] == expected
    worker.terminate()
    assert await worker.ended() == 0
    counts = await worker.logged("predictions logged")
    assert (counts["written"], counts["repeats"]) == (4, 4)

    # In another group, from the first response on.
    again = settings.model_copy(update={"log_group_id": f"again-{settings.log_group_id}"})
    second = start_worker(again, "log")
    await until_logged(again, 1)
    assert await logged(database) == found
    second.terminate()
    assert await second.ended() == 0


async def test_two_that_write_the_same_take_turns(rows: PredictionLog, database: str) -> None:
    """Also where each has it on another day, which no key of the table would refuse."""
    await rows.make_days(midnight(1).date(), midnight().date())
    writers = [[row(number, midnight(days_ago)) for number in range(2000)] for days_ago in (0, 1, 0, 1)]
    added = await asyncio.gather(*(rows.add(0, each) for each in writers))
    assert sorted(added) == [0, 0, 0, 2000]
    assert await count_logged(database) == 2000


async def test_a_topic_made_anew_has_no_repeats_of_the_old_one(rows: PredictionLog, database: str) -> None:
    """Its offsets are the old ones, its requests are not."""
    assert await rows.add(0, [row(1, midnight())]) == 1
    assert await rows.add(0, [row(1, midnight(), "another"), row(1, midnight(1), "third")]) == 2
    assert await rows.add(0, [row(1, midnight(1), "another"), row(1, midnight(), "third")]) == 0


async def test_users_are_hashed_where_asked(
    topics: MakeTopics, database: str, start_worker: StartWorker
) -> None:
    """With the key a user can be found; the table does not have the name."""
    key = "0123456789abcdef0123456789abcdef"
    settings = await topics(
        1, postgres_dsn=database, prediction_log_user_ids="hashed", prediction_log_hash_key=key
    )
    worker = start_worker(settings, "log")
    await write_responses(
        settings,
        written(response(1, user_id="alice@example.org"), "requests/0/1", ms(midnight())),
        written(response(2, user_id=""), "requests/0/2", ms(midnight())),
    )
    await until_logged(settings, 1)
    found = await logged(database)
    expected = hmac.new(key.encode(), b"alice@example.org", hashlib.sha256).hexdigest()
    assert [each["user_id"] for each in found] == [expected, ""]
    assert "alice" not in str([dict(each) for each in found])
    assert key not in worker.log
    worker.terminate()
    assert await worker.ended() == 0


async def test_days_come_ahead_and_go_when_they_are_not_kept(
    topics: MakeTopics, rows: PredictionLog, database: str, start_worker: StartWorker
) -> None:
    """The first that is too old is dropped with its rows, those after it are kept; a late row brings no day back."""
    for days_ago in (4, 3, 2, 0):
        assert await rows.add(0, [row(days_ago, midnight(days_ago) + DAY / 2)]) == 1
    settings = await topics(1, postgres_dsn=database, prediction_log_keep_days=2)
    worker = start_worker(settings, "log")
    told = await worker.logged("prediction log partitions changed")
    today = midnight().date()
    assert told["dropped"] == [(today - number * DAY).isoformat() for number in (4, 3)]
    assert told["created"] == [(today + number * DAY).isoformat() for number in (1, 2)]
    assert await days(database) == [named(today + number * DAY) for number in (-2, 0, 1, 2)]
    assert [each["source_offset"] for each in await logged(database)] == [0, 2]
    await write_responses(
        settings,
        written(response(3), "requests/0/3", ms(midnight(3) + DAY / 2)),
        written(response(5), "requests/0/5", ms(midnight(6))),
        written(response(1), "requests/0/1", ms(midnight(1))),
    )
    await until_logged(settings, 1)
    told = await worker.logged("responses skipped: their days are not kept")
    assert told["records"] == 2
    assert [each["source_offset"] for each in await logged(database)] == [0, 1, 2]
    assert await days(database) == [named(today + number * DAY) for number in (-2, -1, 0, 1, 2)]
    worker.terminate()
    assert await worker.ended() == 0


async def test_what_is_no_response_holds_up_none(
    topics: MakeTopics, database: str, start_worker: StartWorker
) -> None:
    """It is counted, logged once and left out; responses of older workers and odd names are kept."""
    settings = await topics(1, postgres_dsn=database)
    at_ms = ms(midnight())
    worker = start_worker(settings, "log")
    await write_responses(
        settings,
        Written(None, at_ms),
        Written(b"{", at_ms, headers_of("requests/0/1")),
        Written(orjson.dumps(response(1)), at_ms),
        written(response(2, fallback=None), "requests/0/2", at_ms),
        written(response(3, user_id="a\0b"), "requests/0/3", at_ms),
    )
    await until_logged(settings, 1)
    assert [each["user_id"] for each in await logged(database)] == ["u2", "a\ufffdb"]
    worker.terminate()
    assert await worker.ended() == 0
    assert worker.log.count("records are not responses") == 1
    assert (await worker.logged("records are not responses"))["first_offset"] == 0
    assert (await worker.logged("predictions logged"))["unreadable"] == 3


async def test_a_long_read_holds_up_no_writer(rows: PredictionLog, database: str) -> None:
    """Days are made beside it; to drop one waits a moment, and is left for another time."""
    await rows.add(0, [row(1, midnight(9))])
    reader = await asyncpg.connect(database)
    try:
        async with reader.transaction():
            await reader.fetch("SELECT count(*) FROM prediction_log")
            assert await rows.add(0, [row(2, midnight(8)), row(3, midnight(9))]) == 2
            with pytest.raises(RegistryUnavailableError, match="lock timeout"):
                await rows.drop_days(midnight(8).date())
            assert await rows.add(0, [row(4, midnight(7))]) == 1
    finally:
        await reader.close()
    assert await rows.drop_days(midnight(8).date()) == [midnight(9).date()]
    assert [each["source_offset"] for each in await logged(database)] == [2, 4]


async def test_a_day_that_cannot_be_created_keeps_no_other(rows: PredictionLog, database: str) -> None:
    """Its name is taken by another table."""
    days = [midnight(days_ago).date() for days_ago in (9, 8, 7)]
    await execute(database, f"CREATE TABLE {named(days[1])} (x int)")
    with pytest.raises(SetupError, match=named(days[1])):
        await rows.make_days(days[0], days[2])
    await execute(database, f"DROP TABLE {named(days[1])}")
    assert await rows.make_days(days[0], days[2]) == [days[1]]


async def test_a_day_that_a_view_depends_on_ends_nothing(
    topics: MakeTopics, rows: PredictionLog, database: str, start_worker: StartWorker
) -> None:
    """It stays, the other old days are dropped, and the role goes on logging."""
    held = named(midnight(9).date())
    await rows.add(0, [row(1, midnight(10)), row(2, midnight(9)), row(3, midnight(8))])
    await fetch(database, f"CREATE VIEW quarter AS SELECT * FROM {held}")
    settings = await topics(1, postgres_dsn=database, prediction_log_keep_days=2)
    worker = start_worker(settings, "log")
    await worker.ready()
    reason = (await worker.logged("prediction log partitions not maintained"))["reason"]
    assert reason.startswith(f"{held} stays until what depends on it is dropped: view quarter depends on ")
    await write_responses(settings, written(response(4), "requests/0/4", ms(datetime.now(UTC))))
    await until_logged(settings, 1)
    assert [day for day in await days(database) if day < named(midnight(2).date())] == [held]
    worker.terminate()
    assert await worker.ended() == 0


async def test_a_day_taken_out_by_hand_is_not_written_over(rows: PredictionLog, database: str) -> None:
    """A table of a day that was detached elsewhere: the message says what to do."""
    name = named(midnight(5).date())
    await rows.add(0, [row(1, midnight(5))])
    await fetch(database, f"ALTER TABLE prediction_log DETACH PARTITION {name}")
    with pytest.raises(SetupError, match=name):
        await rows.add(0, [row(2, midnight(5))])
    await fetch(database, f"ALTER TABLE {name} RENAME TO kept")
    assert await rows.add(0, [row(2, midnight(5))]) == 1


async def test_a_day_answers_for_its_times_only(rows: PredictionLog, database: str) -> None:
    """A question with times reads the days that they are of, also where it does not say `day`."""
    for days_ago in (3, 2, 1, 0):
        await rows.add(0, [row(days_ago, midnight(days_ago))])
    query = f"EXPLAIN SELECT count(*) FROM prediction_log WHERE responded_at >= '{midnight(1)}'"
    plan = "\n".join(line["QUERY PLAN"] for line in await fetch(database, query))
    assert [name for name in await days(database) if name in plan] == [
        named(midnight(days_ago).date()) for days_ago in (1, 0)
    ]
