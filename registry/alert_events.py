"""The alerts that fire, and every event of an alert, in PostgreSQL.

A monitor that restarts reads what fires, so it neither sends a `firing` event twice nor forgets to resolve an alert.
"""

from dataclasses import dataclass

import structlog
from pydantic import ValidationError

from registry.postgres import Database
from schemas.events import Alert

log = structlog.get_logger()

# Each is logged once, and no more of them.
MAX_LOGGED_ALERTS = 1000
FORGET_EVENTS_SECONDS = 400 * 86_400.0

_FIRING = "SELECT alert FROM alert_states ORDER BY model_name, model_version, rule"
_STATE = "SELECT alert FROM alert_states WHERE model_name = $1 AND model_version = $2 AND rule = $3"
_FIRE = """
    INSERT INTO alert_states (model_name, model_version, rule, alert) VALUES ($1, $2, $3, $4)
    ON CONFLICT DO NOTHING
    RETURNING true
"""
_REPLACE = """
    UPDATE alert_states SET alert = $4 WHERE model_name = $1 AND model_version = $2 AND rule = $3 RETURNING true
"""
_RESOLVE = """
    DELETE FROM alert_states
    WHERE model_name = $1 AND model_version = $2 AND rule = $3 AND alert ->> 'alert_id' = $4
    RETURNING true
"""
_ADD_EVENT = "INSERT INTO alert_events (model_name, alert) VALUES ($1, $2)"
_UNPUBLISHED = "SELECT id, alert FROM alert_events WHERE NOT published ORDER BY id"
_MARK_PUBLISHED = "UPDATE alert_events SET published = true WHERE id = $1"
_FORGET = "DELETE FROM alert_events WHERE published AND recorded_at < now() - make_interval(secs => $1)"


@dataclass(frozen=True, slots=True)
class RecordedEvent:
    """An event with its number. A later event has a higher number."""

    number: int
    alert: Alert


class AlertEvents:
    """All methods raise RegistryUnavailableError and SetupError, as those of the store do."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._unreadable: set[str] = set()

    async def firing(self) -> list[Alert]:
        """The firing events of the currently active alerts. One that cannot be read is logged and left out."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(_FIRING)
        return [alert for row in rows if (alert := self._alert(row["alert"])) is not None]

    async def record(self, alert: Alert) -> bool:
        """Record an event. False when it changes nothing: the alert fires already, or was resolved already.

        A stored firing event that cannot be read is replaced.

        After a RegistryUnavailableError it is unknown whether the event was recorded. If it was, the next call with
        the same event returns False.
        """
        key = (alert.model_name, alert.model_version, alert.rule)
        document = alert.model_dump_json()
        async with self._database.connection() as connection, connection.transaction():
            if alert.state == "firing":
                changed = await connection.fetchval(_FIRE, *key, document)
                if not changed and self._alert(await connection.fetchval(_STATE, *key)) is None:
                    changed = await connection.fetchval(_REPLACE, *key, document)
            else:
                changed = await connection.fetchval(_RESOLVE, *key, alert.alert_id)
            if changed:
                await connection.execute(_ADD_EVENT, alert.model_name, document)
        return bool(changed)

    async def unpublished(self) -> list[RecordedEvent]:
        """The recorded events that are not marked as published, oldest first.

        One that cannot be read is logged and left out.
        """
        async with self._database.connection() as connection:
            rows = await connection.fetch(_UNPUBLISHED)
        return [
            RecordedEvent(row["id"], alert)
            for row in rows
            if (alert := self._alert(row["alert"])) is not None
        ]

    async def mark_published(self, event: RecordedEvent) -> None:
        """Record that the broker has the event."""
        async with self._database.connection() as connection:
            await connection.execute(_MARK_PUBLISHED, event.number)

    def _alert(self, stored: str) -> Alert | None:
        """None for an alert that this release cannot read: another one stored it. Each is logged once."""
        try:
            return Alert.model_validate_json(stored)
        except ValidationError as error:
            if stored not in self._unreadable and len(self._unreadable) < MAX_LOGGED_ALERTS:
                self._unreadable.add(stored)
                log.warning(
                    "stored alert cannot be read; it is skipped",
                    alert=stored[:200],
                    reason=str(error).partition("\n")[0],
                )
            return None

    async def forget(self) -> None:
        """Delete the published events that are older than `FORGET_EVENTS_SECONDS`."""
        async with self._database.connection() as connection:
            await connection.execute(_FORGET, FORGET_EVENTS_SECONDS)
