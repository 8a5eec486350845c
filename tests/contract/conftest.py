"""Fixtures of the contract tests."""

from collections.abc import AsyncIterator, Generator

import pytest

from tests.support.models.backends import close_model_servers, with_idle_connections

PASSED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keep the outcome of the test for its fixtures."""
    report = yield
    if call.when == "call":
        item.stash[PASSED] = report.passed
    return report


@pytest.fixture(autouse=True)
async def closed_model_servers(request: pytest.FixtureRequest) -> AsyncIterator[None]:
    """A test that passes must have closed its backends; those of a failed test are closed here.

    The traceback of a failure would keep their connections open until a later test, which would fail.
    """
    yield
    left = with_idle_connections()
    await close_model_servers()
    if request.node.stash.get(PASSED, False):
        assert left == [], "the test did not close its backends"
