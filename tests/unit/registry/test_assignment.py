"""Which version a user has, and the change that gave it to this user."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry import lifecycle
from registry.assignment import Change, assign
from registry.routing import RouteTable, bucket
from registry.snapshot import RegisteredModel
from schemas.errors import PromotionRejectedError
from tests.support.promotions.events import event, spec

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
USERS = [f"u{number}" for number in range(400)]


class Life:
    """A model and the changes that were applied to it, as the audit trail has them."""

    def __init__(self) -> None:
        self.model: RegisteredModel | None = None
        self.changes: list[Change] = []

    def do(self, action: str, **fields: Any) -> int:
        """Apply an event; return the revision that it made."""
        one = event(action, **fields)
        at = BEGAN + timedelta(hours=len(self.changes))
        self.model = lifecycle.apply(self.model, one, at).model
        self.changes.append(
            Change(
                event_id=one.event_id,
                revision=self.model.revision,
                action=one.action,
                actor=one.actor,
                reason=one.reason,
                before=None,
                after={"statuses": {name: each.status for name, each in self.model.versions.items()}},
                route=self.model.route,
                applied_at=at,
            )
        )
        return self.model.revision

    def version(self, user: str) -> str | None:
        return assign(self.changes, user).version

    def since(self, user: str) -> int | None:
        """The revision that assigned the user's version."""
        since = assign(self.changes, user).since
        return None if since is None else since.revision


@pytest.fixture
def life() -> Life:
    """A model with v1 in production since revision 3, and v2 in staging."""
    life = Life()
    life.do("register", model=spec("v1"))
    life.do("register", model=spec("v2"))
    life.do("promote", version="v1")
    return life


def test_without_traffic_there_is_no_version() -> None:
    """The bucket is known, the version is None."""
    life = Life()
    life.do("register", model=spec("v1"))
    told = assign(life.changes, "u")
    assert (told.revision, told.salt, told.bucket, told.version) == (1, "m", bucket("m", "u"), None)
    assert (told.status, told.weight, told.start, told.end, told.since) == (None, 0.0, 0, 0, None)


def test_a_user_is_told_bucket_range_weight_and_status(life: Life) -> None:
    """Version, status, weight and range are those of the last change."""
    life.do("canary", version="v2", weight=12.5)
    for user in USERS:
        told = assign(life.changes, user)
        assert told.revision == 4
        assert told.bucket == bucket("m", user)
        assert told.start <= told.bucket < told.end
        assert told.version == ("v2" if told.bucket >= 8750 else "v1")
        expected = ("canary", 12.5, 8750, 10_000) if told.version == "v2" else ("production", 87.5, 0, 8750)
        assert (told.status, told.weight, told.start, told.end) == expected
    assert {life.version(user) for user in USERS} == {"v1", "v2"}


def test_who_had_the_canary_has_had_it_since_then(life: Life) -> None:
    """Raising a canary is the reason only for the users that it moved."""
    first = life.do("canary", version="v2", weight=5)
    early = [user for user in USERS if life.version(user) == "v2"]
    second = life.do("canary", version="v2", weight=20)
    late = [user for user in USERS if life.version(user) == "v2" and user not in early]
    life.do("register", model=spec("v3"))
    assert early
    assert late
    assert {life.since(user) for user in early} == {first}
    assert {life.since(user) for user in late} == {second}
    assert {life.since(user) for user in USERS if user not in early + late} == {3}


def test_a_promotion_is_the_reason_for_those_without_the_canary(life: Life) -> None:
    """The others have had the version since the canary."""
    canary = life.do("canary", version="v2", weight=30)
    had_it = {user for user in USERS if life.version(user) == "v2"}
    promotion = life.do("promote", version="v2")
    for user in USERS:
        assert (life.version(user), life.since(user)) == ("v2", canary if user in had_it else promotion)


def test_who_comes_back_to_a_version_has_it_since_the_return(life: Life) -> None:
    """`since` is the return, not the first time. A user that never left keeps the first change."""
    life.do("canary", version="v2", weight=30)
    away = {user for user in USERS if life.version(user) == "v2"}
    back = life.do("rollback")
    assert {life.since(user) for user in away} == {back}
    assert {life.since(user) for user in USERS if user not in away} == {3}


def test_a_reshuffle_is_the_reason_for_those_only_whose_version_it_changed(life: Life) -> None:
    """The same bucket holds other users under another salt, so `since` follows the user."""
    canary = life.do("canary", version="v2", weight=50)
    before = {user: life.version(user) for user in USERS}
    reshuffle = life.do("reshuffle", salt="second")
    moved = {user for user in USERS if life.version(user) != before[user]}
    assert len(USERS) // 4 < len(moved) < 3 * len(USERS) // 4
    for user in USERS:
        told = assign(life.changes, user)
        assert (told.salt, told.bucket) == ("second", bucket("second", user))
        kept_since = canary if before[user] == "v2" else 3
        assert life.since(user) == (reshuffle if user in moved else kept_since)


def test_the_past_is_told_as_it_was(life: Life) -> None:
    """The changes up to a revision are enough; later ones do not matter."""
    life.do("canary", version="v2", weight=50)
    user = next(user for user in USERS if life.version(user) == "v2")
    past = life.changes[:3]
    life.do("rollback")
    told = assign(past, user)
    assert (told.revision, told.version, told.status) == (3, "v1", "production")
    assert assign(life.changes[:4], user).version == "v2"


STEPS = st.lists(
    st.one_of(
        st.builds(dict, action=st.just("canary"), version=st.sampled_from(["v2", "v3"]), weight=st.integers(1, 60)),
        st.builds(dict, action=st.just("promote"), version=st.sampled_from(["v1", "v2", "v3"])),
        st.just({"action": "rollback"}),
        st.builds(dict, action=st.just("rollback"), version=st.sampled_from(["v1", "v2", "v3"])),
        st.builds(dict, action=st.just("reshuffle"), salt=st.sampled_from(["a", "b", "c"])),
    ),
    max_size=12,
)  # fmt: skip  # a table


@given(steps=STEPS, user=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8))
def test_since_is_where_the_users_version_began(steps: list[dict[str, Any]], user: str) -> None:
    """After any changes: the same version from `since` to the end, and another one or none just before."""
    life = Life()
    for version in ("v1", "v2", "v3"):
        life.do("register", model=spec(version))
    life.do("promote", version="v1")
    for step in steps:
        try:
            life.do(**step)
        except PromotionRejectedError:
            continue
    had = [RouteTable.of(change.route).version_of(bucket(change.route.salt, user)) for change in life.changes]
    told = assign(life.changes, user)
    assert told.version == had[-1]
    assert told.since is not None
    began = life.changes.index(told.since)
    assert set(had[began:]) == {told.version}
    assert had[began - 1] != told.version
