"""Each action of the contract: what it does, and what it refuses with which code."""

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import orjson
import pytest

from registry.lifecycle import MOVES, REFUSALS, Part, apply
from registry.routing import weights_of
from registry.snapshot import RegisteredModel, RegisteredVersion
from schemas.errors import PromotionRejectedError, RejectionCode
from schemas.models import Action, PromotionEvent, Route, Status
from tests.support.promotions.events import event, spec

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def after(*events: PromotionEvent) -> RegisteredModel:
    """The model after these events."""
    model: RegisteredModel | None = None
    for one in events:
        model = apply(model, one, NOW).model
    assert model is not None
    return model


def refusal(model: RegisteredModel | None, refused: PromotionEvent) -> tuple[RejectionCode, str]:
    with pytest.raises(PromotionRejectedError) as caught:
        apply(model, refused, NOW)
    return caught.value.code, caught.value.message


def statuses(model: RegisteredModel) -> dict[str, str]:
    return {version: registered.status.value for version, registered in model.versions.items()}


def weights(model: RegisteredModel) -> dict[str, Decimal]:
    return weights_of(model.route)


REGISTERED = tuple(event("register", model=spec(version)) for version in ("v1", "v2", "v3", "v4"))
LIVE = (*REGISTERED, event("promote", version="v1"))
CANARY = (*LIVE, event("canary", version="v2", weight=5))
SECOND = (*LIVE, event("promote", version="v2"))


def test_the_first_registration_makes_a_model_without_traffic() -> None:
    """The salt is the model's name, the revision is 1, and no user is routed."""
    applied = apply(None, REGISTERED[0], NOW)
    model = applied.model
    assert (model.revision, model.route.salt, model.route.ranges) == (1, "m", ())
    assert statuses(model) == {"v1": "staging"}
    assert applied.changed_versions == ("v1",)
    assert applied.applied_at == NOW


def test_a_version_is_never_registered_with_another_content() -> None:
    """Versions are immutable. `true` is not 1 in JSON, although it is in Python."""
    one = after(event("register", model=spec("v1", metrics={"rows": 1})))
    for fields in ({"timeout_ms": 7}, {"metrics": {"rows": True}}, {"metrics": {"rows": 1, "loss": 2}}):
        other = {"metrics": {"rows": 1}} | fields
        code, message = refusal(one, event("register", model=spec("v1", **other)))
        assert code is RejectionCode.VERSION_EXISTS
        assert "new version name" in message


def test_registering_the_same_content_again_changes_nothing() -> None:
    """Whatever became of the version. A pipeline may repeat it."""
    model = after(*SECOND)
    for one in REGISTERED:
        applied = apply(model, one, NOW)
        assert (applied.model, applied.changed_versions, applied.is_unchanged) == (model, (), True)
    rows = after(event("register", model=spec("v1", metrics={"rows": 1})))
    again = event("register", model=spec("v1", metrics={"rows": 1.0}))
    assert apply(rows, again, NOW).is_unchanged


UNPINNED = {"framework": "tensorflow", "endpoint": "http://127.0.0.1:8501"}
PINNED = UNPINNED | {"server": {"model": "m", "version": "3"}}
# Fields of a version, and the seconds of the cache when it names none.
SECONDS: list[tuple[dict[str, Any], int]] = [({}, 300), (PINNED, 300), (UNPINNED, 0)]


@pytest.mark.parametrize(("fields", "seconds"), SECONDS)
@pytest.mark.parametrize("given", [{}, {"cache_ttl_seconds": None}, {"cache_ttl_seconds": 7}])
def test_what_is_stored_of_a_version_has_the_seconds_of_its_cache(
    fields: dict[str, Any], seconds: int, given: dict[str, Any]
) -> None:
    """Contract with workers of an earlier release, which read the same row: a whole number, and no null."""
    model = after(event("register", model=spec("v1", **fields, **given)))
    stored = orjson.loads(model.versions["v1"].spec.model_dump_json())["cache_ttl_seconds"]
    assert type(stored) is int
    assert stored == (given.get("cache_ttl_seconds") or seconds)


@pytest.mark.parametrize(("fields", "seconds"), SECONDS)
def test_a_version_with_and_without_the_seconds_of_its_cache_is_the_same(
    fields: dict[str, Any], seconds: int
) -> None:
    """Also when the registry has a null there. Another number is another content."""
    without = event("register", model=spec("v1", **fields))
    named = event("register", model=spec("v1", **fields, cache_ttl_seconds=seconds))
    other = event("register", model=spec("v1", **fields, cache_ttl_seconds=seconds + 1))
    assert without.model is not None
    with_null = RegisteredModel(
        "m", 1, Route(salt="m", ranges=()), {"v1": RegisteredVersion(without.model, Status.STAGING)}
    )
    for model in (after(without), after(named), with_null):
        assert apply(model, without, NOW).is_unchanged
        assert apply(model, named, NOW).is_unchanged
        assert refusal(model, other)[0] is RejectionCode.VERSION_EXISTS


def test_the_first_version_goes_live_by_promote() -> None:
    """It takes all traffic, and there is nothing to roll back to."""
    model = after(*LIVE)
    assert weights(model) == {"v1": 100}
    assert statuses(model)["v1"] == "production"
    assert model.previous_production is None


def test_a_canary_needs_a_production_to_take_its_weight_from() -> None:
    """Without a production version a canary would take all traffic."""
    for action in (event("canary", version="v1", weight=5), event("split", weights={"v1": 5})):
        code, message = refusal(after(*REGISTERED), action)
        assert code is RejectionCode.ILLEGAL_TRANSITION
        assert "promote" in message


def test_a_canary_takes_its_weight_from_production() -> None:
    """The rest stays with production, and other canaries keep what they have."""
    model = after(*CANARY, event("canary", version="v3", weight=10.5))
    assert weights(model) == {"v1": Decimal("84.5"), "v2": 5, "v3": Decimal("10.5")}
    assert statuses(model) == {"v1": "production", "v2": "canary", "v3": "canary", "v4": "staging"}


def test_a_canary_is_raised_by_the_same_action() -> None:
    """The weight is what the canary has afterwards, not what is added."""
    applied = apply(after(*CANARY), event("canary", version="v2", weight=20), NOW)
    assert weights(applied.model) == {"v1": 80, "v2": 20}
    assert applied.changed_versions == ()


def test_a_split_sets_all_canaries_at_once() -> None:
    """Canaries that it does not name lose their traffic and go back to staging."""
    model = after(*CANARY, event("split", weights={"v3": 20, "v4": 30}))
    assert weights(model) == {"v1": 50, "v3": 20, "v4": 30}
    assert statuses(model)["v2"] == "staging"


def test_a_split_may_name_production_with_its_rest() -> None:
    """Weights with production are accepted when they add up to 100, and keep the rollback target."""
    model = after(*SECOND, event("split", weights={"v2": 70, "v3": 30}))
    assert weights(model) == {"v2": 70, "v3": 30}
    assert model.previous_production == "v1"
    code, message = refusal(after(*LIVE), event("split", weights={"v1": 70, "v2": 20}))
    assert code is RejectionCode.BAD_WEIGHT
    assert "add up to 90" in message


@pytest.mark.parametrize("weight", [0, 100, -1, 100.01, 5.001, 0.001, 1e300, -0.0])
def test_a_weight_outside_its_range_or_grid_is_refused(weight: float) -> None:
    """0 is a rollback, 100 a promotion, and a hundredth of a percent the smallest step."""
    for action in (event("canary", version="v2", weight=weight), event("split", weights={"v2": weight})):
        assert refusal(after(*LIVE), action)[0] is RejectionCode.BAD_WEIGHT


def test_a_weight_off_the_grid_beyond_decimal_precision_is_refused() -> None:
    """Thirty digits after the point are not rounded away."""
    fine = event("canary", version="v2", weight=Decimal("5." + "0" * 40 + "1"))
    assert refusal(after(*LIVE), fine)[0] is RejectionCode.BAD_WEIGHT


def test_canaries_never_take_everything_from_production() -> None:
    """One production with traffic is an invariant; promote is the way to give everything."""
    fifty = after(*LIVE, event("canary", version="v2", weight=50))
    for model, action in (
        (fifty, event("canary", version="v3", weight=50)),
        (fifty, event("canary", version="v3", weight=99.99)),
        (after(*LIVE), event("split", weights={"v2": 60, "v3": 40})),
    ):
        code, message = refusal(model, action)
        assert code is RejectionCode.BAD_WEIGHT
        assert "promote" in message


def test_promoting_archives_the_former_production_as_rollback_target() -> None:
    """The promoted version has everything; other canaries go back to staging."""
    model = after(*CANARY, event("canary", version="v3", weight=10), event("promote", version="v2"))
    assert weights(model) == {"v2": 100}
    assert statuses(model) == {"v1": "archived", "v2": "production", "v3": "staging", "v4": "staging"}
    assert model.previous_production == "v1"


def test_a_rollback_with_canaries_takes_their_traffic_and_leaves_production() -> None:
    """The rollback target is not touched: what was wrong was a canary."""
    model = after(*SECOND, event("split", weights={"v3": 5, "v4": 5}), event("rollback"))
    assert weights(model) == {"v2": 100}
    assert statuses(model) == {"v1": "archived", "v2": "production", "v3": "staging", "v4": "staging"}
    assert model.previous_production == "v1"


def test_a_rollback_that_names_a_canary_takes_only_that_one() -> None:
    """The other experiment goes on."""
    model = after(*LIVE, event("split", weights={"v2": 5, "v3": 10}), event("rollback", version="v2"))
    assert weights(model) == {"v1": 90, "v3": 10}
    assert statuses(model)["v2"] == "staging"


def test_a_rollback_goes_back_to_the_previous_production() -> None:
    """The version that failed returns to staging, where it may be tried again."""
    model = after(*SECOND, event("rollback"))
    assert weights(model) == {"v1": 100}
    assert statuses(model)["v1"] == "production"
    assert statuses(model)["v2"] == "staging"
    assert after(*SECOND, event("rollback"), event("promote", version="v2")).previous_production == "v1"


def test_a_second_rollback_does_not_bring_the_bad_version_back() -> None:
    """Two operators who roll back at the same time must not undo each other."""
    code, message = refusal(after(*SECOND, event("rollback")), event("rollback"))
    assert code is RejectionCode.ILLEGAL_TRANSITION
    assert "name an archived version" in message


def test_a_second_rollback_does_not_replace_the_production_whose_canary_was_stopped() -> None:
    """Also when something else was changed in between; the previous production can be named."""
    model = after(*SECOND, event("canary", version="v3", weight=5), event("rollback"))
    for between in ((), (event("archive", version="v4"), event("reshuffle", salt="s"))):
        changed = model
        for one in between:
            changed = apply(changed, one, NOW).model
        code, message = refusal(changed, event("rollback"))
        assert code is RejectionCode.ILLEGAL_TRANSITION
        assert "name it: v1" in message
    assert weights(apply(model, event("rollback", version="v1"), NOW).model) == {"v1": 100}
    again = apply(model, event("canary", version="v3", weight=5), NOW).model
    stopped = apply(again, event("rollback"), NOW).model
    assert weights(stopped) == {"v2": 100}


def test_a_version_that_no_worker_can_load_gets_no_more_traffic() -> None:
    """Unless the event is forced. It may lose traffic, and what the event does not name may get some."""
    gone = {"v1": "its file is gone", "v3": "its file is gone"}
    model = after(*SECOND)
    for one in (
        {"action": "rollback"},
        {"action": "rollback", "version": "v1"},
        {"action": "promote", "version": "v3"},
        {"action": "canary", "version": "v3", "weight": 5},
        {"action": "split", "weights": {"v4": 5, "v3": 5}},
    ):
        with pytest.raises(
            PromotionRejectedError, match=r"no live worker can load v[13]: its file is gone"
        ) as caught:
            apply(model, event(**one), NOW, gone)
        assert caught.value.code is RejectionCode.NOT_LOADED
        assert apply(model, event(**one, force=True), NOW, gone).model.revision == model.revision + 1
    canary = after(*SECOND, event("canary", version="v3", weight=5))
    with pytest.raises(PromotionRejectedError, match="no live worker"):
        apply(canary, event("canary", version="v3", weight=6), NOW, gone)
    assert weights(apply(canary, event("canary", version="v3", weight=4), NOW, gone).model)["v3"] == 4
    assert weights(apply(canary, event("rollback"), NOW, {"v2": "", "v3": ""}).model) == {"v2": 100}
    assert (
        apply(model, event("register", model=spec("v5")), NOW, {"v5": ""}).model.revision
        == model.revision + 1
    )


def test_a_rollback_without_previous_production_is_refused() -> None:
    """A first version has nothing before it."""
    assert refusal(after(*LIVE), event("rollback"))[0] is RejectionCode.ILLEGAL_TRANSITION
    assert refusal(after(*REGISTERED), event("rollback"))[0] is RejectionCode.ILLEGAL_TRANSITION


def test_a_rollback_reaches_any_archived_version_by_name() -> None:
    """For when the previous production is bad as well; canaries lose their traffic."""
    model = after(
        *SECOND,
        event("promote", version="v3"),
        event("canary", version="v4", weight=5),
        event("rollback", version="v1"),
    )
    assert weights(model) == {"v1": 100}
    assert statuses(model) == {"v1": "production", "v2": "archived", "v3": "staging", "v4": "staging"}
    assert model.previous_production is None


def test_an_archived_version_comes_back_by_rollback_only() -> None:
    """Promote, canary and split refuse it; promote says how to go back to it."""
    model = after(*LIVE, event("archive", version="v2"))
    for action in (
        event("promote", version="v2"),
        event("canary", version="v2", weight=5),
        event("split", weights={"v2": 5, "v3": 5}),
    ):
        assert refusal(model, action)[0] is RejectionCode.ILLEGAL_TRANSITION
    assert "roll back" in refusal(model, event("promote", version="v2"))[1]


def test_only_a_version_without_traffic_is_archived() -> None:
    """A canary and a production take traffic; an archived one is archived already."""
    model = after(*CANARY, event("archive", version="v3"))
    assert statuses(model)["v3"] == "archived"
    for version in ("v1", "v2", "v3"):
        assert refusal(model, event("archive", version=version))[0] is RejectionCode.ILLEGAL_TRANSITION


def test_archiving_the_rollback_target_drops_it() -> None:
    """Its file may be gone. Repeating it changes nothing, and a rollback may still name the version."""
    applied = apply(after(*SECOND), event("archive", version="v1"), NOW)
    assert (applied.model.previous_production, applied.changed_versions) == (None, ())
    assert weights(applied.model) == {"v2": 100}
    code, message = refusal(applied.model, event("archive", version="v1"))
    assert (code, "nothing to do" in message) == (RejectionCode.ILLEGAL_TRANSITION, True)
    assert refusal(applied.model, event("rollback"))[0] is RejectionCode.ILLEGAL_TRANSITION
    back = apply(applied.model, event("rollback", version="v1"), NOW).model
    assert weights(back) == {"v1": 100}


def test_promoting_the_production_is_refused() -> None:
    """It would clear the rollback target."""
    assert refusal(after(*SECOND), event("promote", version="v2"))[0] is RejectionCode.ILLEGAL_TRANSITION


def test_a_reshuffle_changes_the_salt_and_no_weight() -> None:
    """Users are assigned anew to the same ranges; the salt that the model has already is refused."""
    before = after(*CANARY)
    model = apply(before, event("reshuffle", salt="m:2"), NOW).model
    assert (model.route.salt, model.route.ranges) == ("m:2", before.route.ranges)
    assert refusal(model, event("reshuffle", salt="m:2"))[0] is RejectionCode.ILLEGAL_TRANSITION


def test_every_applied_event_raises_the_revision_by_one() -> None:
    """Also events that leave the route as it is."""
    assert after(*REGISTERED).revision == 4
    assert after(*LIVE, event("archive", version="v2"), event("reshuffle", salt="s")).revision == 7


def test_an_expected_revision_must_be_the_current_one() -> None:
    """An operator who decided on an older state is told the current revision."""
    assert apply(after(*LIVE), event("promote", version="v2", expected_revision=5), NOW).model.revision == 6
    code, message = refusal(after(*LIVE), event("promote", version="v2", expected_revision=4))
    assert code is RejectionCode.STALE_REVISION
    assert "revision 5" in message
    first = event("register", model=spec("v1"), expected_revision=0)
    assert apply(None, first, NOW).model.revision == 1


def test_unknown_names_are_refused() -> None:
    """A model is made by registering its first version, a version by registering it."""
    assert refusal(None, event("promote", version="v1"))[0] is RejectionCode.UNKNOWN_MODEL
    for action in (
        event("promote", version="v9"),
        event("canary", version="v9", weight=5),
        event("split", weights={"v2": 5, "v9": 5}),
        event("rollback", version="v9"),
        event("archive", version="v9"),
    ):
        assert refusal(after(*LIVE), action)[0] is RejectionCode.UNKNOWN_VERSION


@pytest.mark.parametrize(
    ("action", "fields", "told"),
    [
        ("register", {}, "model"),
        ("canary", {"version": "v2"}, "weight"),
        ("canary", {"weight": 5}, "version"),
        ("split", {}, "weights"),
        ("split", {"weights": {}}, "no version"),
        ("promote", {}, "version"),
        ("promote", {"version": "v2", "weight": 5}, "weight"),
        ("rollback", {"weight": 5}, "weight"),
        ("rollback", {"salt": "s"}, "salt"),
        ("archive", {}, "version"),
        ("reshuffle", {}, "salt"),
    ],
)
def test_an_action_takes_its_fields_and_no_others(action: str, fields: dict[str, Any], told: str) -> None:
    """A promote with a weight of 5 must not give 100 silently."""
    code, message = refusal(after(*LIVE), event(action, **fields))
    assert code is RejectionCode.INVALID_EVENT
    assert told in message


@pytest.mark.parametrize("field", ["input_schema", "output_schema"])
@pytest.mark.parametrize(
    "schema",
    [
        {"type": "objekt"},
        {"properties": {"a": {"minimum": "1"}}},
        {"pattern": "("},
        {"$ref": "#/$defs/missing"},
        {"$ref": "http://127.0.0.1:9/schema.json"},
        {"$ref": "file:///etc/hostname"},
        {"$schema": "http://json-schema.org/draft-07/schema#"},
        {"$schema": 7},
    ],
    ids=str,
)
def test_a_schema_that_workers_could_not_compile_is_refused(field: str, schema: Mapping[str, Any]) -> None:
    """Also a schema that refers to another document: workers fetch none."""
    code, message = refusal(None, event("register", model=spec("v1", **{field: schema})))
    assert code is RejectionCode.INVALID_EVENT
    assert field in message


def test_a_schema_that_names_its_dialect_is_registered() -> None:
    """Schemas are read as 2020-12, with or without `$schema`."""
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object"}
    assert after(event("register", model=spec("v1", input_schema=dialect))).revision == 1


def test_every_status_of_a_named_version_is_a_move_or_a_refusal() -> None:
    """No event reaches a missing entry, and no entry of one table hides one of the other."""
    for action in (Action.CANARY, Action.SPLIT, Action.PROMOTE, Action.ROLLBACK, Action.ARCHIVE):
        moves = [status for a, part, status in MOVES if (a, part) == (action, Part.NAMED)]
        refusals = [status for a, status in REFUSALS if a is action]
        assert Counter([*moves, *refusals]) == Counter(Status)
