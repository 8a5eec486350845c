"""The audit trail of a model as it is read back from a real PostgreSQL."""

from collections.abc import AsyncIterator

import pytest

from registry.assignment import assign
from registry.history import history, recent_history
from registry.routing import bucket
from registry.store import RegistryStore
from schemas.errors import SetupError
from schemas.models import PromotionResult
from tests.support.promotions.events import event, spec
from tests.support.stack.services import StackAddresses

STATE = {"revision", "salt", "weights", "statuses", "previous_production"}

LIFE = (
    event("register", model=spec("v1"), actor="ann"),
    event("register", "other", model=spec("v1")),
    event("promote", version="v1"),
    event("register", model=spec("v2")),
    event("canary", version="v2", weight=100),
    event("canary", version="v2", weight=5.25, reason="offline AUC +1.2%", actor="bo"),
    event("reshuffle", salt="second"),
    event("promote", "other", version="v1"),
    event("promote", version="v2"),
    event("promote", version="v2"),
    event("rollback"),
)
"""The second canary of 100% and the second promotion of v2 are refused."""


@pytest.fixture
async def store(database: str) -> AsyncIterator[RegistryStore]:
    """A store on an empty registry."""
    store = await RegistryStore.connect(database)
    yield store
    await store.close()


async def decided(store: RegistryStore) -> list[PromotionResult]:
    """The results of LIFE for `m` that were applied; each event is sent twice."""
    results = [await store.apply(one) for one in LIFE for _ in range(2)][::2]
    return [result for result in results if result.model_name == "m" and result.status == "applied"]


async def test_a_life_is_told_from_its_first_change(store: RegistryStore) -> None:
    """Each applied event once, in order, with actor, reason and the route of that time."""
    results = await decided(store)
    changes = await history(store.database, "m")
    assert [
        (change.event_id, change.revision, change.action, change.actor, change.route, change.applied_at)
        for change in changes
    ] == [
        (result.event_id, result.revision, result.action, result.actor, result.route, result.applied_at)
        for result in results
    ]
    assert [change.revision for change in changes] == list(range(1, 8))
    assert [change.actor for change in changes] == ["ann", "op", "op", "bo", "op", "op", "op"]
    assert [change.reason for change in changes] == ["", "", "", "offline AUC +1.2%", "", "", ""]


async def test_the_last_changes_are_the_end_of_all(store: RegistryStore) -> None:
    """So many at most, in the same order; other models' are not among them."""
    await decided(store)
    changes = await history(store.database, "m")
    assert await recent_history(store.database, "m", 3) == changes[-3:]
    assert await recent_history(store.database, "m", 100) == changes
    assert await recent_history(store.database, "nobody", 3) == []
    assert set((await store.revisions()).models) == {"m", "other"}


async def test_each_change_tells_the_state_before_and_after(store: RegistryStore) -> None:
    """The state after a change is the state before the next one; the first change has none before it."""
    await decided(store)
    changes = await history(store.database, "m")
    assert changes[0].before is None
    assert [change.before for change in changes[1:]] == [change.after for change in changes[:-1]]
    assert all(change.after.keys() == STATE for change in changes)
    assert changes[-1].before == {
        "revision": 6,
        "salt": "second",
        "weights": {"v2": 100.0},
        "statuses": {"v1": "archived", "v2": "production"},
        "previous_production": "v1",
    }
    assert changes[-1].after == {
        "revision": 7,
        "salt": "second",
        "weights": {"v1": 100.0},
        "statuses": {"v1": "production", "v2": "staging"},
        "previous_production": None,
    }


async def test_a_model_has_its_own_history(store: RegistryStore) -> None:
    """It has no changes of other models; an unknown model has no history."""
    await decided(store)
    assert [change.revision for change in await history(store.database, "other")] == [1, 2]
    assert await history(store.database, "nobody") == []


async def test_a_users_version_is_told_of_any_revision(store: RegistryStore) -> None:
    """By the routes as they are read back, not as they were decided."""
    await decided(store)
    changes = await history(store.database, "m")
    user = next(name for name in map(str, range(1000)) if bucket("m", name) >= 10_000 - 525)
    told = [assign(changes[:revision], user) for revision in range(1, 8)]
    assert [(each.version, each.status) for each in told[:4]] == [
        (None, None),
        ("v1", "production"),
        ("v1", "production"),
        ("v2", "canary"),
    ]
    assert (told[3].start, told[3].end, told[3].weight) == (10_000 - 525, 10_000, 5.25)
    assert told[3].since is changes[3]
    assert [(each.version, each.salt) for each in told[5:]] == [("v2", "second"), ("v1", "second")]
    assert told[6].since is changes[6]


async def test_a_database_without_tables_says_what_to_run(stack: StackAddresses) -> None:
    """As every other question to the registry."""
    store = await RegistryStore.connect(stack.postgres_dsn.rsplit("/", 1)[0] + "/postgres")
    try:
        with pytest.raises(SetupError, match="headrace init"):
            await history(store.database, "m")
    finally:
        await store.close()
