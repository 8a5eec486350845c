"""The audit trail in PostgreSQL of the records that people made the workers step over."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from registry.postgres import Database
from schemas.bounds import Count, Label, Reason, UtcTime

_ADD = """
    INSERT INTO skipped_records (group_id, topic, topic_partition, record_offset, actor, reason, skipped_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7)
"""
_TRAIL = """
    SELECT group_id, topic, topic_partition AS partition, record_offset AS offset, actor, reason, skipped_at
    FROM skipped_records ORDER BY id
"""


class SkippedRecord(BaseModel):
    """One record that the workers of a group do not read, by whom and why."""

    model_config = ConfigDict(frozen=True)

    group_id: str
    topic: str
    partition: int
    offset: Count
    actor: Label
    reason: Annotated[Reason, Field(min_length=1)]
    skipped_at: UtcTime


class SkippedRecords:
    """All methods raise RegistryUnavailableError and SetupError, as those of the store do."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @asynccontextmanager
    async def adding(self, row: SkippedRecord) -> AsyncIterator[None]:
        """Store the row when the block ends without an error."""
        async with self._database.connection() as connection, connection.transaction():
            await connection.execute(_ADD, *row.model_dump().values())
            yield

    async def trail(self) -> list[SkippedRecord]:
        """All of them, oldest first."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(_TRAIL)
        return [SkippedRecord.model_validate(dict(row)) for row in rows]
