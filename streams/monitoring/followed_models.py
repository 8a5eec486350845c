"""What the registry says that alerts depend on: routes, and the rules in force. Read each second."""

from collections.abc import Mapping

import structlog

from registry.alert_rules import AlertRules, RulesChange, read_rules
from registry.routing import weights_of
from registry.snapshot import RegisteredModel
from registry.store import RegistryStore
from schemas.alert_rules import GLOBAL, GlobalRules, ModelRules
from schemas.models import Status

log = structlog.get_logger()

FOLLOW_EACH_SECONDS = 1.0

ModelRoute = tuple[Mapping[str, float], str | None]
"""The weight of each version, from 0 to 1, and which one is in production."""


class RegistryFollower:
    """As of the last step; before the first one there are no routes, and the rules are the defaults."""

    def __init__(self, store: RegistryStore, rules: AlertRules) -> None:
        self._store = store
        self._rules = rules
        self._epoch = -1
        self._changes: dict[str, RulesChange] = {}
        self._routes: dict[str, ModelRoute] = {}
        self.model_rules: Mapping[str, ModelRules] = {}
        self.global_rules = GlobalRules()

    @property
    def epoch(self) -> int:
        return self._epoch

    def route_of(self, model_name: str) -> ModelRoute | None:
        return self._routes.get(model_name)

    async def step(self) -> None:
        """Read what changed; raises RegistryUnavailableError and SetupError."""
        epoch = await self._store.epoch()
        if epoch < self._epoch:
            # Restored from a backup.
            self._epoch = -1
        if epoch != self._epoch:
            snapshot = await self._store.load(self._epoch)
            self._routes |= {name: _route(model) for name, model in snapshot.models.items()}
            self._epoch = snapshot.epoch
        changes = await self._rules.in_force()
        if changes != self._changes:
            self._changes = changes
            self._take_over(changes)

    def _take_over(self, changes: Mapping[str, RulesChange]) -> None:
        of_models: dict[str, ModelRules] = {}
        installation = GlobalRules()
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
                of_models[model_name] = rules
            elif model_name == GLOBAL:
                installation = rules
        self.model_rules, self.global_rules = of_models, installation


def _route(model: RegisteredModel) -> ModelRoute:
    weights = {version: float(weight) / 100.0 for version, weight in weights_of(model.route).items()}
    production = next(
        (version for version, registered in model.versions.items() if registered.status is Status.PRODUCTION),
        None,
    )
    return weights, production
