"""Errors of asyncpg are translated to RegistryUnavailableError or SetupError."""

import asyncpg
import pytest

from registry.postgres import translated
from schemas.errors import DataRefusedError, HeadraceError, RegistryUnavailableError, SetupError


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


def test_a_broken_constraint_is_a_fault_of_ours() -> None:
    """A violated constraint passes through."""
    with pytest.raises(asyncpg.UniqueViolationError), translated():
        raise asyncpg.UniqueViolationError("twice")
