"""streams/roles/__init__.py: where the roles are."""

import pkgutil

import pytest

from streams.roles import ROLES


@pytest.mark.parametrize("role", ROLES)
def test_each_role_is_there(role: str) -> None:
    assert callable(pkgutil.resolve_name(ROLES[role]))
