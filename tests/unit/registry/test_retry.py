"""Asking PostgreSQL again until it answers."""

from collections.abc import Sequence

import pytest
from structlog.testing import capture_logs

from registry import retry
from registry.retry import store_accepted, until_reachable
from schemas.errors import DataRefusedError, RegistryUnavailableError, SetupError


async def test_a_call_is_repeated_until_the_registry_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also before a migration; one line of the log says what waits."""
    monkeypatch.setattr(retry, "FIRST_RETRY_SECONDS", 0.0)
    answers: list[Exception | int] = [
        RegistryUnavailableError("down"),
        SetupError("no tables"),
        RegistryUnavailableError("down"),
        7,
    ]

    async def ask() -> int:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    with capture_logs() as logged:
        assert await until_reachable(ask, waiting="metrics") == 7
    assert [(line["event"], line["reason"]) for line in logged] == [
        ("registry not reachable; metrics wait", "down")
    ]


async def test_other_errors_are_raised() -> None:
    async def ask() -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await until_reachable(ask, waiting="metrics")


async def test_what_is_refused_holds_up_nothing_else() -> None:
    """Everything else is stored once and in its order; each refused item is reported."""
    stored: list[int] = []
    refused: list[int] = []

    async def store(items: Sequence[int]) -> int:
        if any(item % 7 == 3 for item in items):
            raise DataRefusedError("no")
        stored.extend(items)
        return len(items)

    counts = await store_accepted(store, range(40), refuse=lambda item, _: refused.append(item))
    assert refused == [item for item in range(40) if item % 7 == 3]
    assert stored == [item for item in range(40) if item % 7 != 3]
    assert sum(counts) == len(stored)
