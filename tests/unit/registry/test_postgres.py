"""Errors of asyncpg are translated to RegistryUnavailableError or SetupError."""

import asyncpg
import pytest

from registry.postgres import translated
from schemas.errors import (
    DataRefusedError,
    HeadraceError,
    RegistryFaultError,
    RegistryUnavailableError,
    SetupError,
)


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        # The server closed the connection at the moment in which it was used: met in a worker while
        # PostgreSQL was stopped, which must not end it.
        (asyncpg.InternalClientError("cannot switch to state 12"), RegistryUnavailableError),
        (asyncpg.InterfaceError("connection is closed"), RegistryUnavailableError),
        (asyncpg.AdminShutdownError("terminating"), RegistryUnavailableError),
        (asyncpg.ReadOnlySQLTransactionError("a standby"), RegistryUnavailableError),
        (ConnectionRefusedError("refused"), RegistryUnavailableError),
        (TimeoutError(), RegistryUnavailableError),
        (asyncpg.UndefinedTableError("no table"), SetupError),
        (asyncpg.InvalidPasswordError("wrong"), SetupError),
        (asyncpg.ClientConfigurationError("no DSN"), SetupError),
        (asyncpg.CharacterNotInRepertoireError("NUL"), DataRefusedError),
        (asyncpg.DataError("out of int64 range"), DataRefusedError),
        (asyncpg.StatementTooComplexError("too deep"), DataRefusedError),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_errors_are_translated(raised: Exception, expected: type[HeadraceError]) -> None:
    """Transient errors are unavailability, errors of the set-up are SetupError."""
    with pytest.raises(expected), translated():
        raise raised


@pytest.mark.parametrize(
    "raised",
    [
        asyncpg.UniqueViolationError("twice"),
        asyncpg.DependentObjectsStillExistError("a view depends on it"),
        # A pooler that gives each transaction another connection.
        asyncpg.DuplicatePreparedStatementError("__asyncpg_stmt_1__"),
        asyncpg.PostgresError("of a later release"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_unforeseen_error_fails_the_job_and_not_the_process(raised: Exception) -> None:
    """It has the SQLSTATE for whoever reads the log; workers wait it out as they do an outage."""
    with pytest.raises(RegistryFaultError, match="SQLSTATE") as caught, translated():
        raise raised
    assert isinstance(caught.value, RegistryUnavailableError)


@pytest.mark.parametrize(
    ("said", "statement"),
    [
        ("permission denied for schema public", "`GRANT USAGE, CREATE ON SCHEMA public TO USER_NAME`"),
        (
            "permission denied for table models",
            "`GRANT SELECT, INSERT, UPDATE, DELETE ON models TO USER_NAME`",
        ),
        ("permission denied for sequence s", "`GRANT USAGE ON SEQUENCE s TO USER_NAME`"),
        (
            'permission denied to create temporary tables in database "d"',
            '`GRANT TEMPORARY ON DATABASE "d" TO USER_NAME`',
        ),
        ('permission denied for database "d"', '`GRANT CONNECT, TEMPORARY ON DATABASE "d" TO USER_NAME`'),
        ("must be owner of table prediction_log", "`ALTER TABLE prediction_log OWNER TO USER_NAME`"),
        ("keine Berechtigung für Schema public", "docs/operations.md"),
    ],
)
def test_a_missing_right_is_told_with_what_gives_it(said: str, statement: str) -> None:
    """The DSN is right, so it is not blamed; in another language the page with all rights is named."""
    with pytest.raises(SetupError, match="lacks a right") as caught, translated():
        raise asyncpg.InsufficientPrivilegeError(said)
    assert said in str(caught.value)
    assert statement in str(caught.value)
