"""streams/clients/promotion_client.py: by a control worker over Kafka, or else by PostgreSQL, and once in any case."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest
from redis.asyncio import Redis as RedisClient

from deploy.local.kafka import Kafka
from deploy.local.redis import Redis
from registry.store import RegistryStore
from schemas.errors import (
    BrokerUnavailableError,
    PromotionRejectedError,
    RegistryUnavailableError,
    SetupError,
)
from schemas.events import RouteHint
from schemas.models import PromotionResult
from streams.clients import promotion_client as promoting
from streams.clients.promotion_client import PromotionClient, apply_directly, send_hint
from streams.config.settings import Settings
from tests.support.deadline import DEADLINE_SECONDS, wait_until
from tests.support.kafka.topic_log import topic_log
from tests.support.promotions.events import event, spec
from tests.support.promotions.hint_log import hint_channel
from tests.support.stack.services import MakeTopics
from tests.support.worker.process import StartWorker

# No server listens on this reserved port.
NOWHERE = "127.0.0.1:1"
NO_REGISTRY = f"postgresql://{NOWHERE}/headrace"


@pytest.fixture
async def settings(topics: MakeTopics, database: str) -> Settings:
    """Topics and a registry of the test's own, without a control worker."""
    return await topics(1, postgres_dsn=database)


def at(settings: Settings, **others: object) -> Settings:
    """The same settings with others beside them."""
    return Settings.model_validate(settings.model_dump() | others)


@asynccontextmanager
async def held_registry(dsn: str) -> AsyncIterator[None]:
    """Hold the lock of all promotions until the block ends."""
    connection = await asyncpg.connect(dsn)
    async with connection.transaction():
        await connection.execute("SELECT epoch FROM control_epoch FOR UPDATE")
        yield
    await connection.close()


@asynccontextmanager
async def silent_server() -> AsyncIterator[str]:
    """The address of a server that takes connections and says nothing."""

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(listen, "127.0.0.1")
    async with server:
        host, port = server.sockets[0].getsockname()
        yield f"{host}:{port}"


async def test_a_control_worker_decides(
    settings: Settings, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many tasks share one client: each gets the result of its own event, and none needs the fallback."""
    # A busy machine decides twenty events in more than half a second.
    monkeypatch.setattr(promoting, "FALLBACK_SECONDS", 30.0)
    await start_worker(settings, roles="control").ready()
    fallbacks: list[str] = []
    events = [event("register", f"m-{number}", model=spec("v1")) for number in range(20)]
    async with PromotionClient(settings, on_fallback=fallbacks.append) as client:
        first = await client.decide(event("register", model=spec("v1")), timeout_seconds=DEADLINE_SECONDS)
        decided = await asyncio.gather(*(client.decide(each) for each in events))
        refused = await client.decide(event("rollback"))
    assert (first.via, first.result.status, first.result.revision) == ("kafka", "applied", 1)
    assert [each.result.event_id for each in decided] == [each.event_id for each in events]
    assert {each.via for each in decided} == {"kafka"}
    assert sorted(each.result.epoch for each in decided) == list(range(2, 22))
    assert refused.result.error is not None
    assert (refused.via, refused.result.error.code) == ("kafka", "ILLEGAL_TRANSITION")
    assert fallbacks == []


async def test_without_a_control_worker_postgresql_decides(
    settings: Settings, start_worker: StartWorker
) -> None:
    """After half a second; the worker that comes later repeats the result and changes nothing."""
    fallbacks: list[str] = []
    one = event("register", model=spec("v1"))
    async with PromotionClient(settings, on_fallback=fallbacks.append) as client:
        decided = await client.decide(one)
    assert (decided.via, decided.result.status, decided.result.revision) == ("postgresql", "applied", 1)
    assert fallbacks == ["no result from Kafka within 0.5 s"]
    await start_worker(settings, roles="control").ready()
    async with topic_log(settings.kafka_bootstrap, settings.topic_promotion_results) as log:
        await log.until(lambda: log.of(settings.topic_promotion_results), "the repeated result")
        (record,) = log.of(settings.topic_promotion_results)
    assert PromotionResult.model_validate_json(record.value) == decided.result


async def test_both_ways_decide_the_very_same_event(settings: Settings, start_worker: StartWorker) -> None:
    """What JSON cannot carry as it is, is changed for PostgreSQL too: else the second one would be a conflict."""
    metrics = {"loss": float("nan"), "rows": 1e300, "accuracy": 0.1}
    one = event("register", model=spec("v1", metrics=metrics))
    directly = await apply_directly(settings, one)
    assert directly.status == "applied"
    await start_worker(settings, roles="control").ready()
    async with PromotionClient(settings) as client:
        assert (await client.decide(one, timeout_seconds=DEADLINE_SECONDS)).result == directly


@pytest.mark.parametrize("hangs", [False, True], ids=["refuses", "hangs"])
async def test_without_kafka_postgresql_decides(database: str, own_redis: Redis, *, hangs: bool) -> None:
    """Neither entering nor leaving waits for a Kafka that is not there, and the workers get their hint."""
    async with (
        silent_server() as silent,
        RedisClient.from_url(own_redis.url) as redis,
        redis.pubsub() as hints,
    ):
        await hints.subscribe(await hint_channel(database))
        settings = Settings.model_validate(
            {
                "kafka_bootstrap": silent if hangs else NOWHERE,
                "postgres_dsn": database,
                "redis_url": own_redis.url,
                # A hint that is lost on a busy machine is no fault.
                "redis_timeout_seconds": 10,
            }
        )
        fallbacks: list[str] = []
        async with PromotionClient(settings, on_fallback=fallbacks.append) as client:
            decided = await client.decide(event("register", model=spec("v1")))
        (told,) = fallbacks
        assert ("no result" if hangs else NOWHERE) in told
        assert (decided.via, decided.result.status) == ("postgresql", "applied")
        async with asyncio.timeout(DEADLINE_SECONDS):
            while (message := await hints.get_message(timeout=1.0)) is None or message["type"] != "message":
                pass
        hint = RouteHint.model_validate_json(message["data"])
        assert (hint.model_name, hint.epoch) == ("m", decided.result.epoch)


async def test_without_redis_only_the_hint_is_lost(database: str) -> None:
    """Whether Redis refuses connections or its certificates cannot be read: the result is returned."""
    plain = Settings.model_validate({"postgres_dsn": database, "redis_url": f"redis://{NOWHERE}/0"})
    secure = at(plain, redis_url=f"rediss://{NOWHERE}/0", redis_ssl_cafile="/absent.pem")
    for number, settings in enumerate((plain, secure)):
        result = await apply_directly(settings, event("register", model=spec(f"v{number}")))
        await send_hint(settings, result)
        assert result.status == "applied"


async def test_without_postgresql_the_client_waits_for_kafka(
    settings: Settings, database: str, start_worker: StartWorker
) -> None:
    """The fallback fails at once, and the control worker's result is taken when it comes."""
    worker = start_worker(settings, roles="control")
    await worker.ready()
    fallback = asyncio.Event()
    async with PromotionClient(
        at(settings, postgres_dsn=NO_REGISTRY), on_fallback=lambda _: fallback.set()
    ) as client:
        async with held_registry(database):
            deciding = asyncio.create_task(
                client.decide(event("register", model=spec("v1")), timeout_seconds=DEADLINE_SECONDS)
            )
            await asyncio.wait_for(fallback.wait(), DEADLINE_SECONDS)
        decided = await deciding
    assert (decided.via, decided.result.status) == ("kafka", "applied")


async def test_without_either_the_operator_is_told_where_to_look(settings: Settings) -> None:
    """Both fail, or one does not answer: the error says that the event may have been applied."""
    where = "may have been applied.*headrace status m"
    one = event("register", model=spec("v1"))
    async with PromotionClient(at(settings, kafka_bootstrap=NOWHERE, postgres_dsn=NO_REGISTRY)) as client:
        with pytest.raises(RegistryUnavailableError, match=rf"{NOWHERE}.*PostgreSQL.*{where}"):
            await client.decide(one)
    async with PromotionClient(at(settings, postgres_dsn=NO_REGISTRY)) as client:
        with pytest.raises(
            BrokerUnavailableError, match=r"PostgreSQL.*no result within 1 s.*may still be.*status m"
        ):
            await client.decide(one, timeout_seconds=1)
    with pytest.raises(RegistryUnavailableError, match=where):
        await apply_directly(at(settings, postgres_dsn=NO_REGISTRY), one)


async def test_a_registry_that_is_held_does_not_outlast_the_timeout(
    settings: Settings, database: str
) -> None:
    """The time is one for both ways; afterwards the registry has none of it, or all."""
    one = event("register", model=spec("v1"))
    async with held_registry(database):
        async with PromotionClient(settings) as client:
            with pytest.raises(BrokerUnavailableError, match="no result within 1 s"):
                await client.decide(one, timeout_seconds=1)
        with pytest.raises(RegistryUnavailableError, match=r"no result from PostgreSQL within 0\.2 s"):
            await apply_directly(settings, one, timeout_seconds=0.2)
    store = await RegistryStore.connect(database)
    assert (await store.apply(one)).revision == 1
    await store.close()


async def test_what_is_set_up_wrongly_twice_is_told_as_that(settings: Settings) -> None:
    """One such fault costs only its way; with both there is nothing to try again."""
    tls = at(settings, kafka_security_protocol="SSL", kafka_ssl_cafile="/absent.pem")
    async with PromotionClient(tls) as client:
        assert (await client.decide(event("register", model=spec("v1")))).via == "postgresql"
    wrong = at(tls, postgres_dsn=settings.postgres_dsn.get_secret_value().replace("/test_", "/absent_"))
    async with PromotionClient(wrong) as client:
        with pytest.raises(SetupError, match=r"HEADRACE_KAFKA_SSL.*HEADRACE_POSTGRES_DSN"):
            await client.decide(event("register", model=spec("v2")))


async def test_what_is_no_event_on_the_topic_is_not_sent(settings: Settings) -> None:
    """An event without a form in JSON, or too large for a worker, is refused here."""
    async with PromotionClient(at(settings, max_record_bytes=1000)) as client:
        with pytest.raises(PromotionRejectedError, match="at most 1000 are accepted"):
            await client.decide(event("rollback", reason="x" * 1000))
        nested: dict[str, object] = {}
        for _ in range(300):
            nested = {"not": nested}
        with pytest.raises(PromotionRejectedError, match="no form in JSON"):
            await client.decide(event("register", model=spec("v1", input_schema=nested)))
        with pytest.raises(PromotionRejectedError, match="64-bit"):
            await client.decide(event("register", model=spec("v1", metrics={"rows": 2**70})))


async def test_closing_the_client_gives_the_event_to_postgresql(settings: Settings) -> None:
    """Whoever still awaits a result then gets one, and nothing is left waiting."""
    async with PromotionClient(settings) as client:
        deciding = asyncio.create_task(client.decide(event("register", model=spec("v1"))))
        await asyncio.sleep(0)
    assert (await asyncio.wait_for(deciding, DEADLINE_SECONDS)).result.status == "applied"


async def test_one_client_outlives_an_absence_of_kafka(
    own_kafka: Kafka, database: str, topics: MakeTopics, start_worker: StartWorker
) -> None:
    """Kafka is away when the client is made, starts, hangs and resumes: the same client decides each time."""
    settings = await topics(1, kafka_bootstrap=own_kafka.bootstrap, postgres_dsn=database)
    kafka = own_kafka
    await asyncio.to_thread(kafka.stop)
    versions = (f"v{number}" for number in itertools.count())
    async with asyncio.timeout(None) as closing, PromotionClient(settings) as client:

        async def decided_via() -> str:
            one = event("register", model=spec(next(versions)))
            decided = await client.decide(one, timeout_seconds=DEADLINE_SECONDS)
            assert decided.result.status == "applied"
            return decided.via

        async def until_via_kafka() -> None:
            async def via_kafka() -> bool:
                return await decided_via() == "kafka"

            await wait_until(via_kafka, "a decision by Kafka")

        assert await decided_via() == "postgresql"
        await asyncio.to_thread(kafka.start)
        await start_worker(settings, roles="control").ready()
        await until_via_kafka()
        kafka.pause()
        assert await decided_via() == "postgresql"
        kafka.resume()
        await until_via_kafka()
        kafka.pause()
        assert await decided_via() == "postgresql"
        # Kafka stays paused: closing does not wait for it.
        closing.reschedule(asyncio.get_running_loop().time() + DEADLINE_SECONDS)
    kafka.resume()

    async def nothing_is_left() -> bool:
        return asyncio.all_tasks() == {asyncio.current_task()}

    # What closing left behind ends too, now that it can.
    await wait_until(nothing_is_left, "the end of the client's tasks")
