"""Hold the transaction of a promotion at one of its steps, by a lock that it needs or by a trigger that waits for one."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from tests.support.deadline import wait_until

# The statements in their order; at the last step all of them are done and COMMIT has been sent.
LOCK, COMMIT = "control_epoch's lock", "COMMIT"
STEPS = (
    LOCK,
    "promotion_events",
    "models",
    "model_versions",
    "routes",
    "promotion_audit",
    "control_epoch",
    COMMIT,
)

_FUNCTION = """
    CREATE FUNCTION wait_for_test() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_advisory_xact_lock_shared(TG_ARGV[0]::int);
        RETURN NEW;
    END
    $$
"""


async def install(dsn: str) -> None:
    """Make a database whose promotions can be held."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(_FUNCTION)
        for number, step in enumerate(STEPS):
            timing = {
                COMMIT: "AFTER INSERT ON promotion_audit DEFERRABLE INITIALLY DEFERRED",
                "control_epoch": "BEFORE UPDATE ON control_epoch",
            }.get(step, f"BEFORE INSERT ON {step}")
            kind = "CONSTRAINT TRIGGER" if step == COMMIT else "TRIGGER"
            if step != LOCK:
                await connection.execute(
                    f"CREATE {kind} held_{number} {timing} FOR EACH ROW EXECUTE FUNCTION wait_for_test({number})"
                )
    finally:
        await connection.close()


class Held:
    """The next promotion that comes to the step waits there until `release`."""

    def __init__(self, connection: asyncpg.Connection, transaction: asyncpg.transaction.Transaction) -> None:
        self._connection = connection
        self._transaction = transaction

    async def backend(self) -> int:
        """Wait for the promotion; returns the id of the PostgreSQL process that serves it."""

        async def waiting() -> int | None:
            pid: int | None = await self._connection.fetchval(
                "SELECT pid FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY(pg_blocking_pids(pid))"
            )
            return pid

        pid = await wait_until(waiting, "a promotion at the lock")
        assert pid is not None
        return pid

    async def release(self) -> None:
        """Let it go on."""
        await self._transaction.rollback()


@asynccontextmanager
async def held(dsn: str, step: str) -> AsyncIterator[Held]:
    """Hold promotions at a step, until the release or the end of the block."""
    connection = await asyncpg.connect(dsn)
    try:
        transaction = connection.transaction()
        await transaction.start()
        if step == LOCK:
            await connection.execute("SELECT epoch FROM control_epoch FOR UPDATE")
        else:
            await connection.execute("SELECT pg_advisory_xact_lock($1)", STEPS.index(step))
        yield Held(connection, transaction)
    finally:
        await connection.close()


async def until_ended(dsn: str, backend: int) -> None:
    """Wait until a process of PostgreSQL has finished its transaction and noticed that its client has gone."""
    connection = await asyncpg.connect(dsn)

    async def ended() -> bool:
        count = await connection.fetchval("SELECT count(*) FROM pg_stat_activity WHERE pid = $1", backend)
        return not count

    try:
        await wait_until(ended, f"the end of the PostgreSQL process {backend}")
    finally:
        await connection.close()
