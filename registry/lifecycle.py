"""PURE: the lifecycle of a model's versions. `apply` decides what a promotion event does to a model.

It has over 300 lines because the tables of the moves are read together with the checks that complete them.

Invariants, before and after every event:
- once a model has traffic, its weights add up to 100; before that it has no route;
- a model with traffic has exactly one version in production, and that version takes traffic;
- the versions in production and canary take traffic, and no others;
- the rollback target, if there is one, is archived;
- a change of weights moves the least possible number of users.

`promote` is how the first version takes traffic: a canary takes its weight from a production version, which must
exist. After a rollback another one that names no version is refused, until a version gets traffic by another action.
That protects against two operators who react to one incident: the second would bring the bad version back, or replace
the good one after its canary was stopped. An archived version returns only by a rollback that names it or has it as its target. `archive` of the rollback target drops it, so that workers do not load it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import Enum
from types import MappingProxyType

from registry.registration import check_version, same_content
from registry.routing import reallocate, weights_of
from registry.snapshot import RegisteredModel, RegisteredVersion
from schemas.errors import PromotionRejectedError, RejectionCode
from schemas.models import Action, ModelSpec, PromotionEvent, Route, Status, stored_form
from schemas.near_names import suggestion

FULL = Decimal(100)


class Part(Enum):
    """A version's part in an event."""

    NAMED = "named by the event; for a rollback that names no version, a canary or the rollback target"
    DISPLACED = "loses all its traffic to the named one"


MOVES: Mapping[tuple[Action, Part, Status | None], Status] = {
    (Action.REGISTER, Part.NAMED, None): Status.STAGING,
    (Action.CANARY, Part.NAMED, Status.STAGING): Status.CANARY,
    (Action.CANARY, Part.NAMED, Status.CANARY): Status.CANARY,
    (Action.SPLIT, Part.NAMED, Status.STAGING): Status.CANARY,
    (Action.SPLIT, Part.NAMED, Status.CANARY): Status.CANARY,
    (Action.SPLIT, Part.NAMED, Status.PRODUCTION): Status.PRODUCTION,
    (Action.SPLIT, Part.DISPLACED, Status.CANARY): Status.STAGING,
    (Action.PROMOTE, Part.NAMED, Status.STAGING): Status.PRODUCTION,
    (Action.PROMOTE, Part.NAMED, Status.CANARY): Status.PRODUCTION,
    (Action.PROMOTE, Part.DISPLACED, Status.PRODUCTION): Status.ARCHIVED,
    (Action.PROMOTE, Part.DISPLACED, Status.CANARY): Status.STAGING,
    (Action.ROLLBACK, Part.NAMED, Status.CANARY): Status.STAGING,
    (Action.ROLLBACK, Part.NAMED, Status.ARCHIVED): Status.PRODUCTION,
    (Action.ROLLBACK, Part.DISPLACED, Status.PRODUCTION): Status.STAGING,
    (Action.ROLLBACK, Part.DISPLACED, Status.CANARY): Status.STAGING,
    (Action.ARCHIVE, Part.NAMED, Status.STAGING): Status.ARCHIVED,
    # Drops the rollback target; another archived version is refused.
    (Action.ARCHIVE, Part.NAMED, Status.ARCHIVED): Status.ARCHIVED,
}
"""(action, part, status before) -> status after. None is the status of a version that is not registered."""

REFUSALS: Mapping[tuple[Action, Status], str] = {
    (Action.CANARY, Status.PRODUCTION): (
        "{version} is in production and keeps what its canaries leave; give the weight to another version"
    ),
    (Action.CANARY, Status.ARCHIVED): (
        "{version} is archived and takes no canary traffic; register it again under a new version name"
    ),
    (Action.SPLIT, Status.ARCHIVED): (
        "{version} is archived and takes no canary traffic; register it again under a new version name"
    ),
    (Action.PROMOTE, Status.PRODUCTION): (
        "{version} is in production already; to take the traffic from its canaries, roll back"
    ),
    (Action.PROMOTE, Status.ARCHIVED): "{version} is archived; to go back to it, roll back and name it",
    (Action.ROLLBACK, Status.STAGING): (
        "{version} is in staging and takes no traffic, so there is nothing to roll back; promote it instead"
    ),
    (Action.ROLLBACK, Status.PRODUCTION): (
        "{version} is in production; name the archived version to go back to, or no version: "
        "that stops the canaries, or goes back to the previous production"
    ),
    (Action.ARCHIVE, Status.CANARY): "{version} takes traffic as a canary; roll it back before archiving it",
    (Action.ARCHIVE, Status.PRODUCTION): (
        "{version} is in production; promote another version, which archives this one"
    ),
}
"""(action, status before) -> why the named version is refused. For every action that names versions, each status is a key of MOVES or of REFUSALS."""

# action -> the fields that it needs. An event with a field that its action does not take is rejected, because it may
# be a mistake: `promote` gives 100%, so a sender that adds a weight of 5 probably wants `canary`.
FIELDS: Mapping[Action, frozenset[str]] = {
    Action.REGISTER: frozenset({"model"}),
    Action.CANARY: frozenset({"version", "weight"}),
    Action.SPLIT: frozenset({"weights"}),
    Action.PROMOTE: frozenset({"version"}),
    Action.ROLLBACK: frozenset(),
    Action.ARCHIVE: frozenset({"version"}),
    Action.RESHUFFLE: frozenset({"salt"}),
}
OPTIONAL_FIELDS: Mapping[Action, frozenset[str]] = {Action.ROLLBACK: frozenset({"version"})}
ALL_FIELDS = frozenset({"version", "weight", "weights", "model", "salt"})


# action -> whether the model is rolled back afterwards. Other actions leave that as it is.
_CHANGES_TRAFFIC: Mapping[Action, bool] = {
    Action.CANARY: False,
    Action.SPLIT: False,
    Action.PROMOTE: False,
    Action.ROLLBACK: True,
}


@dataclass(frozen=True, slots=True)
class Applied:
    """What an event does: the model afterwards, and which of its versions must be written.

    `is_unchanged` is True when the model is as the event wants it: then nothing is written.
    """

    model: RegisteredModel
    changed_versions: tuple[str, ...]
    applied_at: datetime
    is_unchanged: bool = False


def apply(
    model: RegisteredModel | None,
    event: PromotionEvent,
    now: datetime,
    unloadable: Mapping[str, str] = MappingProxyType({}),
) -> Applied:
    """Decide what an event does to a model. `model` is None when it is not registered.

    `unloadable` has the versions that no live worker can load, with the reasons. They get no traffic unless the event has
    `force`.

    Raises PromotionRejectedError with a code of the contract and a message for the operator.
    """
    _check_fields(event)
    if model is None:
        if event.action is not Action.REGISTER:
            raise PromotionRejectedError(
                RejectionCode.UNKNOWN_MODEL,
                f"there is no model {event.model_name}; check the name, or register its first version",
            )
        model = RegisteredModel(event.model_name, 0, Route(salt=event.model_name, ranges=()), {})
    if event.expected_revision not in (None, model.revision):
        raise PromotionRejectedError(
            RejectionCode.STALE_REVISION,
            f"{model.model_name} is at revision {model.revision}, not {event.expected_revision}: "
            "it was changed in the meantime; look at its status and decide again",
        )
    if event.model is not None and _is_registered(model, event.model):
        return Applied(model, (), now, is_unchanged=True)
    named = _named(model, event)
    statuses = {version: _next_status(model, event, Part.NAMED, version) for version in named}
    before = weights_of(model.route)
    after = _next_weights(model, event, before, statuses)
    if not event.force:
        _check_loadable([name for name in named if after.get(name, 0) > before.get(name, 0)], unloadable)
    for version in before:
        if version not in after and version not in statuses:
            statuses[version] = _next_status(model, event, Part.DISPLACED, version)

    versions = dict(model.versions)
    for version, status in statuses.items():
        spec = model.versions[version].spec if event.model is None else stored_form(event.model)
        versions[version] = RegisteredVersion(spec, status)
    rollback_target = model.previous_production
    if (production := _production(model.versions)) != _production(versions):
        rollback_target = production if event.action is Action.PROMOTE else None
    if event.action is Action.ARCHIVE and event.version == rollback_target:
        rollback_target = None
    route = model.route if after == before else reallocate(model.route, after)
    if event.salt is not None:
        route = Route(salt=event.salt, ranges=route.ranges)
    return Applied(
        model=RegisteredModel(
            model_name=model.model_name,
            revision=model.revision + 1,
            route=route,
            versions=versions,
            previous_production=rollback_target,
            rolled_back=_CHANGES_TRAFFIC.get(event.action, model.rolled_back),
        ),
        changed_versions=tuple(
            version for version in statuses if versions[version] != model.versions.get(version)
        ),
        applied_at=now,
    )


def unknown_version(model_name: str, version: str, known: Iterable[str]) -> PromotionRejectedError:
    """The error for a version that a model does not have, with the nearest one that it has."""
    near = suggestion(version, known, f"headrace versions {model_name}")
    return PromotionRejectedError(
        RejectionCode.UNKNOWN_VERSION, f"{model_name} has no version {version}{near}"
    )


def _check_fields(event: PromotionEvent) -> None:
    present = {name for name in ALL_FIELDS if getattr(event, name) is not None}
    needed = FIELDS[event.action]
    if missing := needed - present:
        raise _invalid(f"{event.action} needs {_listed(needed)}; add {_listed(missing)}")
    if unwanted := present - needed - OPTIONAL_FIELDS.get(event.action, frozenset()):
        raise _invalid(f"{event.action} takes no {_listed(unwanted)}; leave it out, or choose another action")
    if event.model is not None:
        check_version(event.model)


def _named(model: RegisteredModel, event: PromotionEvent) -> list[str]:
    """The versions that an event moves. A rollback that names none moves the canaries, or the rollback target."""
    if event.model is not None:
        return [event.model.version]
    if event.version is not None:
        return [event.version]
    if event.weights is not None:
        if not event.weights:
            raise _invalid("split names no version; give at least one its weight")
        return list(event.weights)
    if event.salt is not None:
        if event.salt == model.route.salt:
            raise _illegal(f"{model.model_name} has the salt {event.salt} already; choose another")
        return []
    if canaries := _in_status(model.versions, Status.CANARY):
        return canaries
    if model.previous_production is None:
        raise _illegal(
            f"{model.model_name} has no canary running and no previous production to go back to; "
            "name an archived version to go back to that one, or promote another"
        )
    if model.rolled_back:
        raise _illegal(
            f"{model.model_name} is rolled back already: its canaries were stopped; "
            f"to go back to the previous production too, name it: {model.previous_production}"
        )
    return [model.previous_production]


def _is_registered(model: RegisteredModel, spec: ModelSpec) -> bool:
    registered = model.versions.get(spec.version)
    return registered is not None and same_content(registered.spec, spec)


def _next_status(model: RegisteredModel, event: PromotionEvent, part: Part, version: str) -> Status:
    registered = model.versions.get(version)
    if registered is None and event.action is not Action.REGISTER:
        raise unknown_version(model.model_name, version, model.versions)
    if registered is not None and event.action is Action.REGISTER:
        raise PromotionRejectedError(
            RejectionCode.VERSION_EXISTS,
            f"{model.model_name} has another version {version} already and versions never change; "
            "register it under a new version name",
        )
    status = None if registered is None else registered.status
    if status is not None and part is Part.NAMED and (refusal := REFUSALS.get((event.action, status))):
        raise _illegal(refusal.format(version=version))
    if event.action is Action.ARCHIVE and status is Status.ARCHIVED and version != model.previous_production:
        raise _illegal(
            f"{version} is archived already, and is not the rollback target; there is nothing to do"
        )
    return MOVES[event.action, part, status]


def _check_loadable(growing: Iterable[str], unloadable: Mapping[str, str]) -> None:
    for version in growing:
        if version in unloadable:
            raise PromotionRejectedError(
                RejectionCode.NOT_LOADED,
                f"no live worker can load {version}: {unloadable[version]}; mend that, and wait a minute for the workers to "
                "try again; or give it the traffic all the same by force",
            )


def _next_weights(
    model: RegisteredModel,
    event: PromotionEvent,
    before: Mapping[str, Decimal],
    statuses: Mapping[str, Status],
) -> Mapping[str, Decimal]:
    if event.version is not None and event.weight is not None:
        return _weights_with_production(model, before, {event.version: event.weight})
    if event.weights is not None:
        return _weights_with_production(model, {}, event.weights)
    for version, status in statuses.items():
        if status is Status.PRODUCTION:
            return {version: FULL}
    kept = {version: weight for version, weight in before.items() if version not in statuses}
    return before if kept == before else _weights_with_production(model, kept, {})


def _weights_with_production(
    model: RegisteredModel, kept: Mapping[str, Decimal], given: Mapping[str, Decimal]
) -> Mapping[str, Decimal]:
    """The weights of the canaries, `kept` or `given`, and of production, which has the rest of 100."""
    production = _production(model.versions)
    if production is None:
        raise _illegal(
            f"{model.model_name} has no version in production to take traffic from; "
            "the first version goes live by promote"
        )
    for version, weight in given.items():
        if not 0 < weight < FULL or weight != round(weight, 2):
            raise _bad_weight(
                f"{version} cannot have {weight}%; give it more than 0 and less than 100, "
                "with at most two decimals (promote gives 100, rollback 0)"
            )
    weights = {**kept, **given}
    rest = FULL - sum(weight for version, weight in weights.items() if version != production)
    if rest <= 0:
        raise _bad_weight(
            f"the canaries would have {FULL - rest}% and production {production} nothing; "
            "give a canary less, or promote it"
        )
    if given.get(production, rest) != rest:
        raise _bad_weight(
            f"the weights add up to {FULL - rest + given[production]}, not 100; "
            f"leave production {production} out, because it has the rest"
        )
    return {**weights, production: rest}


def _production(versions: Mapping[str, RegisteredVersion]) -> str | None:
    return next(iter(_in_status(versions, Status.PRODUCTION)), None)


def _in_status(versions: Mapping[str, RegisteredVersion], status: Status) -> list[str]:
    return [version for version, registered in versions.items() if registered.status is status]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def _invalid(message: str) -> PromotionRejectedError:
    return PromotionRejectedError(RejectionCode.INVALID_EVENT, message)


def _illegal(message: str) -> PromotionRejectedError:
    return PromotionRejectedError(RejectionCode.ILLEGAL_TRANSITION, message)


def _bad_weight(message: str) -> PromotionRejectedError:
    return PromotionRejectedError(RejectionCode.BAD_WEIGHT, message)
