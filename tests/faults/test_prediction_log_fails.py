"""The role `log` under load: killed, it leaves no row out and none twice; without PostgreSQL it waits."""

import asyncio

from deploy.local.postgres import Postgres
from tests.support.deadline import wait_until
from tests.support.worker.group import MakeGroup
from tests.support.worker.prediction_rows import count_logged, logged, until_logged
from tests.support.worker.process import StartWorker
from tests.support.worker.traffic import PARTITIONS, Traffic


async def until_rows(dsn: str, count: int) -> None:
    async def logged_so_many() -> bool:
        return await count_logged(dsn) >= count

    await wait_until(logged_so_many, f"{count} rows")


async def check_rows(dsn: str, traffic: Traffic) -> None:
    """There is one row for each request, with the values of its answer."""
    rows = await logged(dsn)
    by_source = {
        f"{row['source_topic']}/{row['source_partition']}/{row['source_offset']}": row for row in rows
    }
    assert len(by_source) == len(rows) == len(traffic.sent)
    for number in range(len(traffic.sent)):
        answer, *_ = traffic.answers[number]
        row, response = by_source[answer.source], answer.response
        assert int(row["responded_at"].timestamp() * 1000) == answer.at_ms
        assert row["error_code"] is None
        for name in (
            "request_id",
            "model_name",
            "model_version",
            "user_id",
            "latency_ms",
            "cached",
            "fallback",
            "stale",
            "revision",
        ):
            assert row[name] == getattr(response, name)


async def test_a_log_worker_is_killed(
    make_group: MakeGroup, database: str, start_worker: StartWorker
) -> None:
    """The next one goes on where it was, and one that reads everything again adds nothing."""
    group = await make_group()
    first = start_worker(group.settings, "log")
    (worker, _) = await asyncio.gather(group.start("one"), first.ready())
    async with group.traffic(inputs=200) as traffic:
        await until_rows(database, 500)
        first.kill()
        assert await first.ended() < 0
        second = start_worker(group.settings, "log")
        await second.ready()
        await second.logged("partitions assigned")
        await until_rows(database, await count_logged(database) + 500)
        assert await traffic.end() == 0
        await until_logged(group.settings, PARTITIONS)
        await check_rows(database, traffic)
        again = group.settings.model_copy(update={"log_group_id": f"again-{group.settings.log_group_id}"})
        third = start_worker(again, "log")
        await until_logged(again, PARTITIONS)
        await check_rows(database, traffic)
    third.terminate()
    assert await third.ended() == 0
    counts = await third.logged("predictions logged")
    assert (counts["written"], counts["repeats"]) == (0, len(traffic.sent))
    await group.end(*worker, second)


async def test_postgres_is_stopped(
    make_group: MakeGroup, own_postgres: Postgres, start_worker: StartWorker
) -> None:
    """Responses wait in Kafka, predictions do not wait, and the log catches up by itself."""
    group = await make_group(postgres_dsn=own_postgres.dsn)
    log = start_worker(group.settings, "log")
    (worker, _) = await asyncio.gather(group.start("one"), log.ready())
    async with group.traffic() as traffic:
        await until_rows(own_postgres.dsn, 100)
        await asyncio.to_thread(own_postgres.stop)
        await log.logged("registry not reachable; responses to be logged wait")
        # No request waits for PostgreSQL: requests that are sent while it is away are answered while it is away.
        await traffic.until_answered()
        await asyncio.to_thread(own_postgres.start)
        await traffic.until_answered()
        assert await traffic.end() == 0
        await until_logged(group.settings, PARTITIONS)
        await check_rows(own_postgres.dsn, traffic)
    await group.end(*worker, log)
