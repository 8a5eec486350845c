"""streams/supervisor.py: which processes it starts, and how often one has failed in a row."""

import asyncio

import pytest

from streams.config.settings import Settings
from streams.supervisor import STEADY_SECONDS, PlannedProcess, Supervisor, failures_in_a_row, planned


def test_each_role_has_a_process() -> None:
    """All have the name of the worker: what each of them writes says its role, too."""
    assert planned("w", ["predict", "control"], 1) == [
        PlannedProcess("predict", "predict", "w"),
        PlannedProcess("control", "control", "w"),
    ]


def test_further_processes_are_of_the_roles_that_share_their_partitions() -> None:
    """Each of them is a worker with a name of its own."""
    assert planned("w", ["predict", "control", "monitor", "log"], 2) == [
        PlannedProcess("predict-1", "predict", "w-1"),
        PlannedProcess("predict-2", "predict", "w-2"),
        PlannedProcess("control", "control", "w"),
        PlannedProcess("monitor", "monitor", "w"),
        PlannedProcess("log-1", "log", "w-1"),
        PlannedProcess("log-2", "log", "w-2"),
    ]


def test_a_process_that_ran_steadily_starts_a_new_series() -> None:
    """Its next failure counts as the first one."""
    assert failures_in_a_row(7, STEADY_SECONDS - 1) == 8
    assert failures_in_a_row(7, STEADY_SECONDS) == 1


async def test_a_process_that_cannot_be_started_counts_as_one_that_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The machine has no memory for it now: that is no fault of the supervisor, which would end all others."""

    async def refuse(*_: object, **__: object) -> None:
        raise BlockingIOError("no process is left")

    monkeypatch.setattr(asyncio, "create_subprocess_exec", refuse)
    assert await Supervisor(Settings(), ["predict", "control"], [], processes=1).run() == 1
