"""The alert rules that were set, in PostgreSQL: each change of them, with its actor, time and reason."""

from dataclasses import dataclass
from datetime import UTC, datetime

import orjson

from registry.postgres import Database
from schemas.alert_rules import GlobalRules, ModelRules, rules_class
from schemas.bounds import rfc3339
from schemas.events import JsonObject

_ADD = """
    INSERT INTO alert_rules (model_name, rules, actor, reason, set_at) VALUES ($1, $2, $3, $4, $5)
"""
_IN_FORCE = """
    SELECT DISTINCT ON (model_name) model_name, rules, actor, reason, set_at FROM alert_rules
    ORDER BY model_name, id DESC
"""
_TRAIL = """
    SELECT model_name, rules, actor, reason, set_at FROM alert_rules WHERE model_name = $1 ORDER BY id
"""


@dataclass(frozen=True, slots=True)
class RulesChange:
    """One change of a model's rules, or of the global ones. `rules` has the fields that were given."""

    model_name: str
    rules: JsonObject
    actor: str
    reason: str
    set_at: datetime


class AlertRules:
    """All methods raise RegistryUnavailableError and SetupError, as those of the store do."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def set(
        self, model_name: str, rules: ModelRules | GlobalRules, *, actor: str, reason: str
    ) -> RulesChange:
        """Replace the rules of a model.

        Only the fields that were given are stored, so the defaults of a later release apply to the others.
        """
        now = datetime.fromisoformat(rfc3339(datetime.now(UTC)))
        document = rules.model_dump(mode="json", exclude_unset=True)
        async with self._database.connection() as connection:
            await connection.execute(_ADD, model_name, orjson.dumps(document).decode(), actor, reason, now)
        return RulesChange(model_name, document, actor, reason, now)

    async def in_force(self) -> dict[str, RulesChange]:
        """The current rules of each model for which rules were ever set, by model name."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(_IN_FORCE)
        return {row["model_name"]: _change(row) for row in rows}

    async def trail(self, model_name: str) -> list[RulesChange]:
        """All changes of a model's rules, oldest first."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(_TRAIL, model_name)
        return [_change(row) for row in rows]


def read_rules(change: RulesChange) -> ModelRules | GlobalRules:
    """PURE. The rules of a change, with the defaults for the fields that it does not have.

    Raises ValueError for a field or value that this release does not know: a newer release may have set it.
    """
    return rules_class(change.model_name).model_validate_json(orjson.dumps(change.rules))


def _change(row: dict[str, object]) -> RulesChange:
    return RulesChange(**{**row, "rules": orjson.loads(row["rules"])})  # type: ignore[arg-type]  # as selected
