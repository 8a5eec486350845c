"""PostgreSQL is away for a while under load: predictions go on, and promotions wait and are decided once."""

import asyncio
import os
from pathlib import Path

import asyncpg

from deploy.local.postgres import Postgres
from registry.history import history
from registry.store import RegistryStore
from schemas.models import PromotionResult
from streams.clients.predict_client import PredictClient
from streams.config.settings import Settings
from tests.support.deadline import DEADLINE_SECONDS
from tests.support.kafka.topic_log import TopicLog, topic_log, uncommitted_promotions
from tests.support.models.served_model import predictions_of, serve_model
from tests.support.promotions.events import event, publish, spec
from tests.support.stack.services import MakeTopics
from tests.support.worker.group import MakeGroup
from tests.support.worker.process import StartWorker
from tests.support.worker.traffic import REQUESTS_A_SECOND

OUTAGE_SECONDS = float(os.environ.get("OUTAGE_SECONDS", "3"))


async def results_of(log: TopicLog, settings: Settings, count: int) -> list[PromotionResult]:
    """Wait for `count` results; fail if there are more."""
    records = log.of(settings.topic_promotion_results)
    await log.until(lambda: len(records) >= count, f"{count} results")
    await log.to_end()
    return [PromotionResult.model_validate_json(record.value) for record in records]


async def test_promotions_wait_and_predictions_do_not(
    make_group: MakeGroup, own_postgres: Postgres, start_worker: StartWorker
) -> None:
    """No request is lost or waits for PostgreSQL; promotions that were published meanwhile are applied once, in order."""
    group = await make_group(
        postgres_dsn=own_postgres.dsn, registry_poll_seconds=0.2, stale_after_seconds=1.0
    )
    control = start_worker(group.settings, roles="control")
    (worker,) = await group.start("one")
    await control.ready()
    waiting = [
        event("canary", group.model, version="v2", weight=50),
        event("promote", group.model, version="v1"),
        event("promote", group.model, version="v2"),
    ]
    async with (
        group.traffic() as traffic,
        topic_log(group.settings.kafka_bootstrap, group.settings.topic_promotion_results) as log,
    ):
        await traffic.until_answered(lambda response: not response.stale, "fresh")
        await asyncio.to_thread(own_postgres.stop)
        await publish(group.settings, *waiting)
        await control.logged("registry not reachable; promotions wait")
        await traffic.until_answered(lambda response: response.stale, "stale")
        first = len(traffic.sent)
        await traffic.until(
            lambda: len(traffic.answers) > first + OUTAGE_SECONDS * REQUESTS_A_SECOND, "answers all the time"
        )
        await log.to_end()
        assert log.of(group.settings.topic_promotion_results) == []
        await asyncio.to_thread(own_postgres.start)
        results = await results_of(log, group.settings, len(waiting))
        await traffic.until_answered(
            lambda response: response.revision == results[-1].revision and not response.stale,
            "fresh, by the last promotion",
        )
        first = len(traffic.sent)
        await traffic.until_answered()
        assert await traffic.end() == 0
        assert {traffic.version(number) for number in range(first, len(traffic.sent))} == {"v2"}
    assert [(result.event_id, result.status) for result in results] == [
        (waiting[0].event_id, "applied"),
        (waiting[1].event_id, "rejected"),
        (waiting[2].event_id, "applied"),
    ]
    await group.end(worker, control)
    assert await uncommitted_promotions(group.settings) == 0
    store = await RegistryStore.connect(own_postgres.dsn)
    try:
        changes = await history(store.database, group.model)
    finally:
        await store.close()
    # After the four that made the model.
    assert [change.event_id for change in changes[4:]] == [waiting[0].event_id, waiting[2].event_id]


async def test_a_version_says_what_is_answered_by_an_old_route(
    topics: MakeTopics, own_postgres: Postgres, start_worker: StartWorker, tmp_path: Path
) -> None:
    """STALE_ROUTE where it was registered so, else predictions that say it; neither is a dead letter."""
    strict = await serve_model(own_postgres.dsn, tmp_path, stale_policy="fail")
    lenient = await serve_model(own_postgres.dsn, tmp_path)
    settings = await topics(
        1,
        postgres_dsn=own_postgres.dsn,
        artifact_dir=str(tmp_path / "artifacts"),
        registry_poll_seconds=0.2,
        stale_after_seconds=1.0,
    )
    worker = start_worker(settings)
    await worker.ready()
    async with PredictClient(settings) as client:

        async def answers(*, stale: bool) -> None:
            """Wait for answers that are stale or not, and check their predictions."""
            while True:
                kept = await client.predict(lenient, user_id="u", input={"x": 3})
                assert kept.predictions == predictions_of("v1", 3)
                refused = await client.predict(strict, user_id="u", input={"x": 3})
                if kept.stale is refused.stale is stale:
                    break
            assert (refused.model_version, refused.revision) == ("v1", 2)
            if stale:
                assert refused.error is not None
                assert refused.error.code == "STALE_ROUTE"
            else:
                assert refused.predictions == predictions_of("v1", 3)

        async with asyncio.timeout(DEADLINE_SECONDS):
            await answers(stale=False)
            await asyncio.to_thread(own_postgres.stop)
            await answers(stale=True)
            await asyncio.to_thread(own_postgres.start)
            await answers(stale=False)
    async with topic_log(settings.kafka_bootstrap, settings.topic_dead_letters) as log:
        await log.to_end()
        assert log.of(settings.topic_dead_letters) == []


async def test_promotions_wait_for_the_registry_to_be_set_up(
    topics: MakeTopics, database: str, start_worker: StartWorker
) -> None:
    """A table that is missing, as before a migration, is not the event's fault: it is not refused."""
    settings = await topics(1, postgres_dsn=database)
    worker = start_worker(settings, roles="control")
    await worker.ready()
    connection = await asyncpg.connect(database)
    try:
        await connection.execute("ALTER TABLE promotion_audit RENAME TO not_yet_there")
        await publish(settings, event("register", model=spec("v1")))
        told = await worker.logged("registry not reachable; promotions wait")
        assert "headrace init" in told["reason"]
        await connection.execute("ALTER TABLE not_yet_there RENAME TO promotion_audit")
        async with topic_log(settings.kafka_bootstrap, settings.topic_promotion_results) as log:
            (result,) = await results_of(log, settings, 1)
        assert (result.status, result.revision, result.epoch) == ("applied", 1, 1)
        assert await connection.fetchval("SELECT count(*) FROM promotion_audit") == 1
    finally:
        await connection.close()


async def test_a_read_only_server_counts_as_not_read(make_group: MakeGroup, own_postgres: Postgres) -> None:
    """It may be an old copy: responses become stale, the connections are made anew, and all is well when it is a primary."""
    group = await make_group(
        postgres_dsn=own_postgres.dsn, registry_poll_seconds=0.2, stale_after_seconds=1.0
    )
    (worker,) = await group.start("one")
    operator = await asyncpg.connect(own_postgres.dsn)

    async def sessions() -> set[int]:
        rows = await operator.fetch(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        return {row["pid"] for row in rows}

    async with group.traffic() as traffic:
        await traffic.until_answered(lambda response: not response.stale, "fresh")
        before = await sessions()
        await operator.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        await operator.execute("SELECT pg_reload_conf()")
        await traffic.until_answered(lambda response: response.stale, "stale")
        await operator.execute("ALTER SYSTEM RESET default_transaction_read_only")
        await operator.execute("SELECT pg_reload_conf()")
        await traffic.until_answered(lambda response: not response.stale, "fresh again")
        after = await sessions()
        assert before
        assert not before & after
        assert await traffic.end() == 0
    await operator.close()
    await group.end(worker)
