"""Any sequence of events, legal or not, keeps every invariant of a model's life."""

from datetime import UTC, datetime
from decimal import Decimal

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from registry.lifecycle import apply
from registry.routing import RouteTable, weights_of
from registry.snapshot import RegisteredModel
from schemas.errors import PromotionRejectedError
from schemas.models import BUCKETS, Action, Framework, ModelSpec, PromotionEvent, Route, Status, stored_form

NOW = datetime(2026, 1, 1, tzinfo=UTC)
VERSIONS = [f"v{number}" for number in range(6)]
SPECS = {
    version: ModelSpec(
        version=version,
        framework=Framework.OPEN_INFERENCE,
        endpoint="http://127.0.0.1:9",
        input_schema={"type": "object"},
        output_schema={},
    )
    for version in VERSIONS
}

versions = st.sampled_from(VERSIONS)
# Mostly weights that can be applied together, sometimes ones that no canary may have.
percents = st.one_of(
    st.decimals("0.01", 15, places=2),
    st.decimals("0.01", 15, places=2),
    st.sampled_from([Decimal(weight) for weight in ("0", "100", "-1", "99.99", "60", "5.005")]),
)


def assignment(route: Route) -> list[str | None]:
    table = RouteTable.of(route)
    return [table.version_of(number) for number in range(BUCKETS)]


class ModelLife(RuleBasedStateMachine):
    """Sends events to one model and compares what each one changed with what it may change."""

    def __init__(self) -> None:
        super().__init__()
        self.model: RegisteredModel | None = None

    def send(self, action: Action, **fields: object) -> None:
        event = PromotionEvent.model_validate(
            {"event_id": "e", "model_name": "m", "action": action, **fields}
        )
        before = self.model
        try:
            applied = apply(before, event, NOW)
        except PromotionRejectedError:
            return
        self.model = applied.model
        if before is None:
            return
        if applied.is_unchanged:
            assert self.model == before
            return
        assert self.model.revision == before.revision + 1
        changed = {v for v in self.model.versions if self.model.versions[v] != before.versions.get(v)}
        assert set(applied.changed_versions) == changed
        if before.route.ranges:
            old, new = weights_of(before.route), weights_of(self.model.route)
            moved = sum(
                x != y for x, y in zip(assignment(before.route), assignment(self.model.route), strict=True)
            )
            assert moved == 100 * sum(max(Decimal(0), new[v] - old.get(v, 0)) for v in new)

    @initialize(live=st.sampled_from([True, True, True, False]))
    def start(self, *, live: bool) -> None:
        for version in VERSIONS[:5] if live else ():
            self.register(version)
        if live:
            self.promote("v0")

    @rule(version=versions)
    def register(self, version: str) -> None:
        self.send(Action.REGISTER, model=SPECS[version])

    @rule(version=versions, weight=percents)
    def canary(self, version: str, weight: Decimal) -> None:
        self.send(Action.CANARY, version=version, weight=weight)

    @rule(weights=st.dictionaries(versions, percents, max_size=4))
    def split(self, weights: dict[str, Decimal]) -> None:
        self.send(Action.SPLIT, weights=weights)

    @rule(version=versions)
    def promote(self, version: str) -> None:
        self.send(Action.PROMOTE, version=version)

    @rule(version=st.none() | versions)
    def rollback(self, version: str | None) -> None:
        self.send(Action.ROLLBACK, version=version)

    # Few, because what is archived takes part in little.
    @rule(version=st.sampled_from(VERSIONS[3:]))
    def archive(self, version: str) -> None:
        self.send(Action.ARCHIVE, version=version)

    @rule(salt=st.sampled_from(["m", "m:2", "m:3"]))
    def reshuffle(self, salt: str) -> None:
        self.send(Action.RESHUFFLE, salt=salt)

    @invariant()
    def traffic_goes_to_production_and_canaries_and_to_nobody_else(self) -> None:
        if self.model is None:
            return
        weights = weights_of(self.model.route)
        serving = {
            version
            for version, registered in self.model.versions.items()
            if registered.status in (Status.CANARY, Status.PRODUCTION)
        }
        assert set(weights) == serving
        assert sum(weights.values()) == (100 if weights else 0)

    @invariant()
    def traffic_means_exactly_one_production(self) -> None:
        if self.model is None:
            return
        productions = [v for v, r in self.model.versions.items() if r.status is Status.PRODUCTION]
        assert len(productions) == (1 if self.model.route.ranges else 0)

    @invariant()
    def the_rollback_target_is_archived(self) -> None:
        if self.model is not None and self.model.previous_production is not None:
            assert self.model.versions[self.model.previous_production].status is Status.ARCHIVED

    @rule()
    def repeat_a_rollback(self) -> None:
        """Two operators at once: the second one changes nothing."""
        self.send(Action.ROLLBACK)
        after_the_first = self.model
        self.send(Action.ROLLBACK)
        assert self.model == after_the_first

    @invariant()
    def specs_never_change(self) -> None:
        for version, registered in (self.model.versions if self.model else {}).items():
            assert registered.spec == stored_form(SPECS[version])


TestModelLife = ModelLife.TestCase
TestModelLife.__doc__ = "Fifty events in any order, from no model at all or from a live one."
TestModelLife.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)
