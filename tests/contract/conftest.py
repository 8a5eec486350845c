"""Fixtures of the contract tests."""

from collections.abc import AsyncIterator

import pytest

from tests.support.models.backends import close_model_servers


@pytest.fixture(autouse=True)
async def closed_model_servers() -> AsyncIterator[None]:
    """Close the connections of the test's backends, also when the test fails.

    Otherwise the traceback of the failure keeps them open, and they fail a later test.
    """
    yield
    await close_model_servers()
