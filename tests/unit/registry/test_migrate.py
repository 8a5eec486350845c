"""Which migration comes next, and which databases are refused."""

import re

import pytest

from registry.migrate import Migration, next_migration, packaged_migrations
from schemas.errors import SetupError

FILES = [Migration("0001_one.sql", "SELECT 1"), Migration("0002_two.sql", "SELECT 2")]
DONE = [(migration.name, migration.sha256) for migration in FILES]


def test_files_are_applied_in_their_order_and_once() -> None:
    """The first missing one is next; after the last one it is None."""
    assert next_migration(FILES, []) == FILES[0]
    assert next_migration(FILES, DONE[:1]) == FILES[1]
    assert next_migration(FILES, DONE) is None


def test_a_changed_file_is_refused_by_name() -> None:
    """An applied file must not change."""
    changed = [Migration("0001_one.sql", "SELECT 3"), FILES[1]]
    with pytest.raises(SetupError, match=r"0001_one\.sql was changed"):
        next_migration(changed, DONE)


@pytest.mark.parametrize("applied", [[*DONE, ("0003_three.sql", "0")], [("0001_other.sql", "0")]])
def test_a_database_of_another_version_is_refused(applied: list[tuple[str, str]]) -> None:
    """A database of a newer program, or one with other files in between, is refused."""
    with pytest.raises(SetupError, match="does not know"):
        next_migration(FILES, applied)


def test_the_packaged_files_are_numbered_without_gaps() -> None:
    """The packaged files are numbered without gaps and without repeats."""
    names = [migration.name for migration in packaged_migrations()]
    assert [int(name[:4]) for name in names] == list(range(1, len(names) + 1))
    assert all(re.fullmatch(r"\d{4}_[a-z0-9_]+\.sql", name) for name in names)
