"""What PostgreSQL's errors mean here: come back later, or change the set-up."""

from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg

from schemas.errors import RegistryUnavailableError, SetupError

CONNECT_TIMEOUT_SECONDS = 5.0

# SQLSTATE classes and codes (PostgreSQL manual, appendix A) that pass by themselves: connection
# lost, transaction to be repeated, out of resources, shutting down or starting, I/O error; and a lock not
# got in time, and a standby that was asked to write before it was promoted.
PASSING_CLASSES = frozenset({"08", "40", "53", "57", "58"})
PASSING_CODES = frozenset({"55P03", "25006"})
SCHEMA_CODES = frozenset({"42P01", "42703", "42883"})
# Wrong password or user, no such database, no right to it.
ACCESS_CLASSES = frozenset({"28", "3D"})
ACCESS_CODES = frozenset({"42501"})


@contextmanager
def translated() -> Iterator[None]:
    """Turn what asyncpg raises into RegistryUnavailableError or SetupError.

    What is left, broken constraints and wrong values, is for the caller to know or a fault of ours.
    """
    try:
        yield
    except asyncpg.ClientConfigurationError as error:
        raise SetupError(f"HEADRACE_POSTGRES_DSN cannot be used: {error}") from error
    except asyncpg.PostgresError as error:
        code = error.sqlstate or ""
        if code[:2] in PASSING_CLASSES or code in PASSING_CODES:
            raise RegistryUnavailableError(f"PostgreSQL does not answer: {error}") from error
        if code[:2] in ACCESS_CLASSES or code in ACCESS_CODES:
            raise SetupError(f"PostgreSQL refuses HEADRACE_POSTGRES_DSN: {error}") from error
        if code in SCHEMA_CODES:
            raise SetupError(
                f"the registry's tables are missing or old ({error}); run `headrace init`"
            ) from error
        raise
    except TimeoutError as error:
        raise RegistryUnavailableError("PostgreSQL does not answer in time") from error
    except (asyncpg.InterfaceError, OSError) as error:
        raise RegistryUnavailableError(f"PostgreSQL does not answer: {error}") from error
