"""PURE. From promotions and the answers around them to how long each took, and whether any answer was too late."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Scenario:
    """`limit_ms` is the p99 that is wanted."""

    name: str
    title: str
    limit_ms: float


ALL_WELL: Final = Scenario("all_well", "all well", 1000.0)
DIRECT: Final = Scenario("direct", "direct", 1000.0)
COMMAND: Final = Scenario("command", "command", 1000.0)
CONTROL_KILLED: Final = Scenario("control_killed", "control killed", 1000.0)
REDIS_DOWN: Final = Scenario("redis_down", "Redis down", 2500.0)
HINTS_LOST: Final = Scenario("hints_lost", "hints lost", 2500.0)
SCENARIOS: Final = (ALL_WELL, DIRECT, COMMAND, CONTROL_KILLED, REDIS_DOWN, HINTS_LOST)


@dataclass(frozen=True, slots=True)
class Change:
    """A promotion or rollback, after which `version` answers; times are Unix milliseconds.

    It was called for, decided in PostgreSQL, its result reached the caller, and each live worker's heartbeat
    said that all its answers are by it.
    """

    scenario: str
    version: str
    revision: int
    epoch: int
    via: str
    called_ms: float
    decided_ms: float
    replied_ms: float
    confirmed_ms: float


@dataclass(frozen=True, slots=True)
class Answers:
    """Of each answer when the broker took it (Unix milliseconds), its revision, and its version's index."""

    appended_ms: NDArray[np.int64]
    revisions: NDArray[np.int64]
    version_indices: NDArray[np.int8]
    versions: Sequence[str]


@dataclass(frozen=True, slots=True)
class Run:
    """All changes in their order, all answers, and when the last worker had swapped its table, by epoch."""

    changes: Sequence[Change]
    answers: Answers
    swapped_ms: Mapping[int, float] = field(default_factory=dict)


def last_old_ms(answers: Answers, changes: Sequence[Change]) -> list[float]:
    """How long after each call the last answer by an older revision was appended; 0 if none was."""
    revisions, positions = np.unique(answers.revisions, return_inverse=True)
    last = np.zeros(len(revisions))
    np.maximum.at(last, positions, answers.appended_ms)
    # The last one by any revision up to each.
    last = np.maximum.accumulate(last)
    older = np.searchsorted(revisions, [change.revision for change in changes])
    return [
        max(0.0, float(last[count - 1]) - change.called_ms) if count else 0.0
        for count, change in zip(older, changes, strict=True)
    ]


def wrong_after_confirm(answers: Answers, changes: Sequence[Change]) -> int:
    """Answers by an older revision, or by another version than the revision's, after a change was confirmed.

    The broker's clock ticks in milliseconds: an answer in the very one of the confirmation may be before it.
    """
    confirmed = [change.confirmed_ms for change in changes]
    at_least = np.array([0, *(change.revision for change in changes)])
    old = answers.revisions < at_least[np.searchsorted(confirmed, answers.appended_ms)]
    mistaken = np.zeros(len(old), dtype=bool)
    for change in changes:
        expected = answers.versions.index(change.version) if change.version in answers.versions else -1
        mistaken |= (answers.revisions == change.revision) & (answers.version_indices != expected)
    return int((old | mistaken).sum())


def document(run: Run) -> dict[str, Any]:
    """What is written to `rollback.json`, of a run in which each scenario had at least one change."""
    took = last_old_ms(run.answers, run.changes)
    by_scenario: dict[str, list[tuple[Change, float]]] = {}
    for change, ms in zip(run.changes, took, strict=True):
        by_scenario.setdefault(change.scenario, []).append((change, ms))
    rounds = {scenario.name: _summary(by_scenario[scenario.name], run.swapped_ms) for scenario in SCENARIOS}
    figures = {
        "p50_ms": rounds[ALL_WELL.name]["p50_ms"],
        "p99_ms": rounds[ALL_WELL.name]["p99_ms"],
        **{
            f"{scenario.name}_p99_ms": rounds[scenario.name]["p99_ms"]
            for scenario in SCENARIOS
            if scenario is not ALL_WELL
        },
        "command_start_ms": rounds[COMMAND.name]["phases_p50_ms"]["decided"],
        "confirm_p99_ms": rounds[ALL_WELL.name]["confirm_p99_ms"],
        "wrong_version_after_confirm": wrong_after_confirm(run.answers, run.changes),
    }
    limits = {
        "p99_ms": ALL_WELL.limit_ms,
        **{
            f"{scenario.name}_p99_ms": scenario.limit_ms for scenario in SCENARIOS if scenario is not ALL_WELL
        },
        "wrong_version_after_confirm": 0,
    }
    targets = {
        name: {"at_most": limit, "is": figures[name], "reached": figures[name] <= limit}
        for name, limit in limits.items()
    }
    return {**figures, "targets": targets, "rounds": rounds}


def _summary(rounds: Sequence[tuple[Change, float]], swapped_ms: Mapping[int, float]) -> dict[str, Any]:
    took = [ms for _, ms in rounds]
    phases = {
        "decided": [change.decided_ms - change.called_ms for change, _ in rounds],
        "replied": [change.replied_ms - change.called_ms for change, _ in rounds],
        "swapped": [
            swapped_ms[change.epoch] - change.called_ms for change, _ in rounds if change.epoch in swapped_ms
        ],
        "last_old": took,
        "confirmed": [change.confirmed_ms - change.called_ms for change, _ in rounds],
    }
    return {
        "count": len(rounds),
        "p50_ms": _percentile(took, 50),
        "p99_ms": _percentile(took, 99),
        "max_ms": max(took),
        "confirm_p99_ms": _percentile(phases["confirmed"], 99),
        "by_postgresql": sum(change.via == "postgresql" for change, _ in rounds),
        "phases_p50_ms": {name: _percentile(values, 50) for name, values in phases.items() if values},
        "last_old_ms": took,
    }


def _percentile(values: Sequence[float], percent: float) -> float:
    return float(np.percentile(values, percent))
