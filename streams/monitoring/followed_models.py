"""What alerts depend on in the registry: the models' routes, and the alert rules in force."""

import asyncio
from collections.abc import Collection, Mapping

import structlog

from registry.alert_rules import AlertRules, RulesChange, read_rules
from registry.follower import NOTHING_KNOWN, EpochFollower
from registry.routing import weights_of
from registry.snapshot import RegisteredModel
from registry.store import RegistryStore
from schemas.alert_rules import GLOBAL, GlobalRules, ModelRules
from schemas.models import Status

log = structlog.get_logger()

FOLLOW_EACH_SECONDS = 1.0

ModelRoute = tuple[Mapping[str, float], str | None, str | None]
"""The weight of each version, from 0 to 1, and which versions are in production and the rollback target."""

NO_ROUTE: ModelRoute = ({}, None, None)


class FollowedModels:
    """Routes and rules as of the last refresh. Before the first one no route is known, and the default rules hold."""

    def __init__(self, store: RegistryStore, rules: AlertRules) -> None:
        self._follower = EpochFollower(store.epoch, store.load)
        self._rules = rules
        self._refreshing = asyncio.Lock()
        self._changes: dict[str, RulesChange] = {}
        self._routes: dict[str, ModelRoute] = {}
        self.model_rules: Mapping[str, ModelRules] = {}
        self.global_rules = GlobalRules()

    def route_of(self, model_name: str) -> ModelRoute | None:
        """The route of a model, `NO_ROUTE` when the registry does not have the model; None before the first refresh."""
        if self._follower.epoch == NOTHING_KNOWN:
            return None
        return self._routes.get(model_name, NO_ROUTE)

    async def unregistered(self, model_names: Collection[str]) -> set[str]:
        """Those of the names that the registry does not have; reads what changed before it calls one unregistered.

        Raises RegistryUnavailableError and SetupError.
        """
        unknown = set(model_names) - self._routes.keys() - {""}
        if unknown:
            await self.refresh()
            unknown -= self._routes.keys()
        return unknown

    async def refresh(self) -> None:
        """Read what changed; raises RegistryUnavailableError and SetupError."""
        async with self._refreshing:
            await self._refresh()

    async def _refresh(self) -> None:
        changes = await self._follower.poll()
        if changes is not None:
            changed = {name: _route(model) for name, model in changes.models.items()}
            self._routes = changes.merged(self._routes, changed)
        in_force = await self._rules.in_force()
        if in_force != self._changes:
            self._changes = in_force
            self._apply_rules(in_force)

    def _apply_rules(self, changes: Mapping[str, RulesChange]) -> None:
        model_rules: dict[str, ModelRules] = {}
        global_rules = GlobalRules()
        for model_name, change in changes.items():
            try:
                rules = read_rules(change)
            except ValueError as error:
                log.warning(
                    "rules of another release are not followed; the defaults hold",
                    model_name=model_name,
                    reason=str(error).partition("\n")[0],
                )
                continue
            if isinstance(rules, ModelRules):
                model_rules[model_name] = rules
            elif model_name == GLOBAL:
                global_rules = rules
        self.model_rules, self.global_rules = model_rules, global_rules


def _route(model: RegisteredModel) -> ModelRoute:
    weights = {version: float(weight) / 100.0 for version, weight in weights_of(model.route).items()}
    production = next(
        (version for version, registered in model.versions.items() if registered.status is Status.PRODUCTION),
        None,
    )
    return weights, production, model.previous_production
