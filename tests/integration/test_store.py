"""The registry on a real PostgreSQL: each event once, in one order, whatever happens meanwhile."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from registry.routing import weights_of
from registry.store import RegistryStore
from schemas.errors import PromotionRejectedError, RegistryUnavailableError, SetupError
from schemas.models import PromotionEvent, PromotionResult, Status, cache_seconds, stored_form
from streams.promotions.events import make_event
from tests.support.deadline import DEADLINE_SECONDS
from tests.support.promotions.events import connection_killed_at_the_lock, event, spec
from tests.support.stack.services import StackAddresses


@pytest.fixture
async def store(database: str) -> AsyncIterator[RegistryStore]:
    """A store on an empty registry."""
    store = await RegistryStore.connect(database, connect_timeout_seconds=5, command_timeout_seconds=5)
    yield store
    await store.close()


@pytest.fixture
async def connection(database: str) -> AsyncIterator[asyncpg.Connection]:
    """A plain connection, as psql has."""
    connection = await asyncpg.connect(database)
    yield connection
    await connection.close()


async def applied(store: RegistryStore, *events: PromotionEvent) -> PromotionResult:
    """Apply events that must all be accepted; the last one's result."""
    for one in events:
        result = await store.apply(one)
        assert result.status == "applied", result.error
    return result


def code(result: PromotionResult) -> str:
    assert result.status == "rejected"
    assert result.error is not None
    assert result.error.message
    return result.error.code


LIVE = (
    event("register", model=spec("v1")),
    event("register", model=spec("v2")),
    event("promote", version="v1"),
)


async def test_an_empty_registry_has_no_models(store: RegistryStore) -> None:
    """A worker can start before anything is registered."""
    assert await store.epoch() == 0
    snapshot = await store.load()
    assert (snapshot.epoch, snapshot.models) == (0, {})


async def test_a_life_is_read_back_as_it_was_decided(store: RegistryStore) -> None:
    """Specs, statuses, weights, rollback target, revision and epoch come back whole."""
    schema = {"type": "object", "properties": {"é\\u0000": {"maximum": 1e300}, "a": {"const": -0.5}}}
    first = event("register", model=spec("v1", input_schema=schema, metrics={"accuracy": 0.91}))
    result = await applied(
        store,
        first,
        *LIVE[1:],
        event("promote", version="v2"),
        event("register", model=spec("v3")),
        event("canary", version="v3", weight=12.34),
    )
    assert result.revision == 6
    snapshot = await store.load()
    assert snapshot.epoch == await store.epoch() == 6
    model = snapshot.models["m"]
    assert model.revision == 6
    assert model.route == result.route
    assert {version: float(weight) for version, weight in weights_of(model.route).items()} == {
        "v2": 87.66,
        "v3": 12.34,
    }
    assert model.previous_production == "v1"
    assert [registered.status for registered in model.versions.values()] == [
        Status.ARCHIVED,
        Status.PRODUCTION,
        Status.CANARY,
    ]
    assert first.model is not None
    assert model.versions["v1"].spec == stored_form(first.model)


UNPINNED = {"framework": "tensorflow", "endpoint": "http://127.0.0.1:8501"}


async def test_the_row_of_a_version_has_the_number_of_seconds_of_the_cache(
    store: RegistryStore, connection: asyncpg.Connection
) -> None:
    """Workers of an earlier release, which read no null there, follow the model."""
    await applied(
        store,
        event("register", model=spec("v1")),
        event("register", model=spec("v2", **UNPINNED)),
        event("register", model=spec("v3", cache_ttl_seconds=60)),
    )
    rows = await connection.fetch("SELECT spec -> 'cache_ttl_seconds' FROM model_versions ORDER BY version")
    assert [row[0] for row in rows] == ["300", "0", "60"]


async def test_a_null_that_was_stored_for_the_cache_stays_readable(
    store: RegistryStore, connection: asyncpg.Connection
) -> None:
    """The model is loaded, and the same content is the same version."""
    await applied(store, *LIVE)
    await connection.execute("ALTER TABLE model_versions DISABLE TRIGGER USER")
    await connection.execute("""UPDATE model_versions SET spec = spec || '{"cache_ttl_seconds": null}'""")
    stored = (await store.load()).models["m"].versions["v1"].spec
    assert (stored.cache_ttl_seconds, cache_seconds(stored)) == (None, 300)
    for fields in ({}, {"cache_ttl_seconds": 300}):
        result = await applied(store, event("register", model=spec("v1", **fields)))
        assert result.unchanged
    assert (
        code(await store.apply(event("register", model=spec("v1", cache_ttl_seconds=0)))) == "VERSION_EXISTS"
    )


async def test_a_rollback_swaps_productions_in_one_transaction(store: RegistryStore) -> None:
    """The index that allows one production at any time is not in the way."""
    await applied(store, *LIVE, event("promote", version="v2"), event("rollback"))
    model = await store.find("m")
    assert model is not None
    assert model.versions["v1"].status is Status.PRODUCTION
    assert model.versions["v2"].status is Status.STAGING
    assert model.previous_production is None


async def test_an_event_is_applied_once_and_its_result_repeated(store: RegistryStore) -> None:
    """Also after others were applied: the replay says what became of it then."""
    first = await applied(store, *LIVE)
    await applied(store, event("promote", version="v2"))
    assert await store.apply(LIVE[-1]) == first
    assert await store.epoch() == 4


async def test_a_refusal_is_repeated_too(store: RegistryStore) -> None:
    """A refused event stays refused when it is repeated, also if the state has changed since."""
    early = event("promote", version="v3")
    await applied(store, *LIVE)
    refused = await store.apply(early)
    assert code(refused) == "UNKNOWN_VERSION"
    await applied(store, event("register", model=spec("v3")))
    assert await store.apply(early) == refused


async def test_one_id_with_two_bodies_is_a_conflict(store: RegistryStore) -> None:
    """The id belongs to the first body; the result has the current state."""
    await applied(store, *LIVE)
    other = LIVE[-1].model_copy(update={"version": "v2"})
    result = await store.apply(other)
    assert code(result) == "EVENT_CONFLICT"
    assert result.revision == 3
    assert (await store.load()).models["m"].versions["v1"].status is Status.PRODUCTION
    assert (await store.apply(LIVE[-1])).status == "applied"


async def test_refusals_change_nothing(store: RegistryStore) -> None:
    """Neither revision nor epoch nor audit trail; the result carries the route that stays."""
    before = await applied(store, *LIVE)
    result = await store.apply(event("canary", version="v2", weight=100))
    assert code(result) == "BAD_WEIGHT"
    assert (result.revision, result.route) == (before.revision, before.route)
    assert code(await store.apply(event("promote", "nobody", version="v1"))) == "UNKNOWN_MODEL"
    assert await store.epoch() == 3


async def test_a_nul_character_in_a_schema_is_refused_in_words(store: RegistryStore) -> None:
    """JSON has NUL and PostgreSQL does not. The model of the event refuses it in every other text."""
    result = await store.apply(event("register", model=spec("v1", input_schema={"title": "\x00"})))
    assert code(result) == "INVALID_EVENT"
    assert await store.epoch() == 0


async def test_an_event_without_a_form_in_json_is_refused(store: RegistryStore) -> None:
    """A schema that is nested deeper than the canonical form allows."""
    deep: dict[str, object] = {}
    for _ in range(300):
        deep = {"not": deep}
    assert code(await store.apply(event("register", model=spec("v1", input_schema=deep)))) == "INVALID_EVENT"


@pytest.mark.parametrize("fields", [{"reason": "a\x00b"}, {"reason": "\udcff"}, {"event_id": "\x00"}])
def test_text_that_postgresql_refuses_is_no_event(fields: dict[str, str]) -> None:
    """NUL, and bytes of a command line that are not UTF-8: the event is refused in words before the store has it."""
    good = event("register", model=spec("v1")).model_dump(mode="json")
    with pytest.raises(PromotionRejectedError) as refused:
        make_event(good | fields)
    assert refused.value.code == "INVALID_EVENT"
    assert refused.value.message.startswith(next(iter(fields)))


async def test_of_two_operators_at_once_one_is_told_that_he_is_late(
    database: str, store: RegistryStore
) -> None:
    """Twenty decisions on the same revision, over two pools: one applies, nothing of it is lost."""
    await applied(store, *LIVE)
    other = await RegistryStore.connect(database)
    try:
        canaries = [event("canary", version="v2", weight=n, expected_revision=3) for n in range(1, 21)]
        results = await asyncio.gather(
            *(pool.apply(one) for one, pool in zip(canaries, [store, other] * 10, strict=True))
        )
    finally:
        await other.close()
    winners = [result for result in results if result.status == "applied"]
    assert len(winners) == 1
    assert {code(result) for result in results if result not in winners} == {"STALE_REVISION"}
    model = (await store.load()).models["m"]
    assert (model.revision, model.route) == (4, winners[0].route)


async def test_one_event_from_many_senders_is_applied_once(store: RegistryStore) -> None:
    """All of them get the one result."""
    await applied(store, *LIVE)
    same = event("promote", version="v2")
    results = await asyncio.gather(*(store.apply(same) for _ in range(10)))
    assert all(result == results[0] for result in results)
    assert await store.epoch() == 4


async def test_a_snapshot_is_of_one_epoch(store: RegistryStore) -> None:
    """Loads between promotions of two models never see one without the other's epoch."""
    names = ("a", "b")
    for name in names:
        await applied(store, event("register", name, model=spec("v0")))

    async def promote() -> None:
        for number in range(1, 15):
            for name in names:
                await applied(store, event("register", name, model=spec(f"v{number}")))

    promoting = asyncio.create_task(promote())
    while not promoting.done():
        snapshot = await store.load()
        assert snapshot.epoch == sum(model.revision for model in snapshot.models.values())
    await promoting


async def test_what_changed_since_an_epoch_is_read_alone(store: RegistryStore) -> None:
    """The models that changed, each with the versions that serving may need, and nothing else."""
    await applied(store, *LIVE, event("register", "other", model=spec("v1")))
    assert set((await store.load()).models) == {"m", "other"}
    assert set((await store.load(3)).models) == {"other"}
    assert (await store.load(4)).models == {}
    await applied(store, event("canary", version="v2", weight=5), event("register", model=spec("v3")))
    snapshot = await store.load(4)
    assert snapshot.epoch == 6
    assert {name: set(model.versions) for name, model in snapshot.models.items()} == {"m": {"v1", "v2"}}
    await applied(store, event("promote", version="v2"))
    assert set((await store.load(6)).models["m"].versions) == {"v1", "v2"}, "v1 is the rollback target"
    await applied(store, event("rollback"))
    assert set((await store.load(7)).models["m"].versions) == {"v1"}


async def test_the_audit_trail_tells_before_and_after(
    store: RegistryStore, connection: asyncpg.Connection
) -> None:
    """Actor, action, reason, and the states before and after; it has no refusals."""
    await applied(store, *LIVE, event("canary", version="v2", weight=5, reason="offline AUC +1.2%"))
    await store.apply(event("canary", version="v2", weight=0))
    rows = await connection.fetch(
        "SELECT action, actor, reason, before -> 'weights' AS before, after -> 'weights' AS after,"
        " after -> 'revision' AS revision FROM promotion_audit ORDER BY id"
    )
    assert [row["action"] for row in rows] == ["register", "register", "promote", "canary"]
    assert [row["revision"] for row in rows] == ["1", "2", "3", "4"]
    assert (rows[0]["before"], rows[-1]["before"]) == (None, '{"v1": 100.0}')
    assert rows[-1]["after"] == '{"v1": 95.0, "v2": 5.0}'
    assert (rows[-1]["actor"], rows[-1]["reason"]) == ("op", "offline AUC +1.2%")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE promotion_audit SET actor = 'somebody else'",
        "DELETE FROM promotion_audit",
        "TRUNCATE promotion_audit",
        "UPDATE routes SET salt = 'x'",
        "DELETE FROM routes",
        "UPDATE model_versions SET spec = '{}'",
        "TRUNCATE models CASCADE",
    ],
)
async def test_history_cannot_be_rewritten_by_hand(
    store: RegistryStore, connection: asyncpg.Connection, statement: str
) -> None:
    """The database refuses, whoever asks."""
    await applied(store, *LIVE)
    with pytest.raises(asyncpg.RestrictViolationError, match="never change"):
        await connection.execute(statement)


async def test_a_second_production_cannot_be_made_by_hand(
    store: RegistryStore, connection: asyncpg.Connection
) -> None:
    """The invariant that matters most does not rest on our code alone."""
    await applied(store, *LIVE)
    with pytest.raises(asyncpg.UniqueViolationError):
        await connection.execute("UPDATE model_versions SET status = 'production'")


async def test_killed_connections_are_told_and_replaced(
    store: RegistryStore, connection: asyncpg.Connection
) -> None:
    """A promotion whose connection dies while it waits is not applied; the next call works."""
    await applied(store, *LIVE)
    async with connection_killed_at_the_lock(connection):
        with pytest.raises(RegistryUnavailableError):
            await store.apply(event("promote", version="v2"))
    assert await store.epoch() == 3
    await applied(store, event("promote", version="v2"))


async def test_a_lock_that_is_held_too_long_is_unavailable_and_not_for_ever(
    database: str, store: RegistryStore, connection: asyncpg.Connection
) -> None:
    """A statement that waits longer than the command timeout ends; readers do not wait at all."""
    await applied(store, *LIVE)
    # What does not wait is done by then, also on a busy machine.
    hurried = await RegistryStore.connect(database, command_timeout_seconds=3.0)
    try:
        async with connection.transaction():
            await connection.execute("SELECT epoch FROM control_epoch FOR UPDATE")
            async with asyncio.timeout(DEADLINE_SECONDS):
                with pytest.raises(RegistryUnavailableError, match="in time"):
                    await hurried.apply(event("promote", version="v2"))
                assert len((await hurried.load()).models) == 1
        await applied(hurried, event("promote", version="v2"))
    finally:
        await hurried.close()


async def test_a_thousand_models_of_ten_versions_are_loaded_in_pieces(
    store: RegistryStore, connection: asyncpg.Connection
) -> None:
    """In far less than this deadline, which is for a busy machine; other tasks run meanwhile."""
    await applied(store, *(event("register", model=spec(f"v{n}")) for n in range(10)))
    await applied(store, event("promote", version="v0"), event("canary", version="v1", weight=10))
    versions = "model_name, version, spec, status, created_at"
    copied = f"'m' || n{versions.removeprefix('model_name')}"
    async with connection.transaction():
        for copy in (
            "INSERT INTO models SELECT 'm' || n, revision, NULL, created_at, changed_epoch FROM models",
            f"INSERT INTO model_versions ({versions}) SELECT {copied} FROM model_versions",
            "INSERT INTO routes SELECT 'm' || n, revision, salt, ranges, event_id, created_at FROM routes",
        ):
            await connection.execute(f"{copy}, generate_series(1, 999) n")
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    busy = asyncio.create_task(others())
    async with asyncio.timeout(DEADLINE_SECONDS):
        snapshot = await store.load()
    busy.cancel()
    assert len(snapshot.models) == 1000
    assert all(set(model.versions) == {"v0", "v1"} for model in snapshot.models.values())
    assert turns >= 100


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    """The message differs from that for a wrong address."""
    with pytest.raises(RegistryUnavailableError, match=r"127\.0\.0\.1"):
        await RegistryStore.connect("postgresql://127.0.0.1:1/headrace")


async def test_a_database_without_tables_says_what_to_run(stack: StackAddresses) -> None:
    """Forgotten migrations are the first mistake of a new operator."""
    store = await RegistryStore.connect(stack.postgres_dsn.rsplit("/", 1)[0] + "/postgres")
    try:
        with pytest.raises(SetupError, match="headrace init"):
            await store.load()
    finally:
        await store.close()


async def test_a_model_that_cannot_be_read_keeps_no_other(
    store: RegistryStore, connection: asyncpg.Connection
) -> None:
    """As another release may register one: workers follow the other models, and the epoch."""
    await applied(store, event("register", "a", model=spec("v1")), event("promote", "a", version="v1"))
    await applied(store, event("register", "b", model=spec("v1")), event("promote", "b", version="v1"))
    await connection.execute("ALTER TABLE model_versions DISABLE TRIGGER USER")
    await connection.execute(
        """UPDATE model_versions SET spec = spec || '{"timeout_ms": "soon"}' WHERE model_name = 'a'"""
    )
    snapshot = await store.load()
    assert (snapshot.epoch, list(snapshot.models)) == (4, ["b"])
