"""What the benchmark of rollbacks makes of changes and answers, and when it finds an answer too late."""

from dataclasses import replace

import numpy as np
import pytest

from tests.bench.answers import Model, WrongAnswerError
from tests.bench.recommender import Recommender
from tests.bench.rollback_figures import (
    ALL_WELL,
    COMMAND,
    SCENARIOS,
    Answers,
    Change,
    Run,
    document,
    last_old_ms,
    wrong_after_confirm,
)
from tests.bench.rollback_run import Counts, check
from tests.bench.rollback_traffic import Account
from tests.bench.workload import TOP, features

CALLED_MS = 1000.0


def change(revision: int, version: str, called_ms: float = CALLED_MS, scenario: str = "all_well") -> Change:
    """Decided, replied to and confirmed 10, 20 and 100 ms after its call; the epoch is the revision."""
    return Change(
        scenario,
        version,
        revision,
        revision,
        "kafka",
        called_ms,
        decided_ms=called_ms + 10,
        replied_ms=called_ms + 20,
        confirmed_ms=called_ms + 100,
    )


def answers(*each: tuple[int, int, str]) -> Answers:
    """Of (when it was appended, revision, version)."""
    names = sorted({version for _, _, version in each})
    return Answers(
        np.array([appended_ms for appended_ms, _, _ in each]),
        np.array([revision for _, revision, _ in each]),
        np.array([names.index(version) for _, _, version in each], dtype=np.int8),
        names,
    )


def test_last_old_answer_is_of_any_older_revision() -> None:
    """A worker may be two revisions behind; newer answers, and older ones before the call, do not count."""
    seen = answers(
        (990, 1, "v1"), (1030, 1, "v1"), (1020, 2, "v2"), (1400, 3, "v1"), (1310, 2, "v2"), (1320, 1, "v1")
    )
    changes = [change(2, "v2"), change(3, "v1", 1300), change(4, "v2", 2000)]
    assert last_old_ms(seen, changes) == [320, 20, 0]


def test_last_old_answer_is_none_where_there_is_no_older_one() -> None:
    """With little traffic nobody may have asked before."""
    assert last_old_ms(answers((1200, 2, "v2")), [change(2, "v2")]) == [0]


def test_answers_before_the_confirmation_may_be_old() -> None:
    """Also those in the millisecond of the confirmation itself, and newer ones at any time."""
    seen = answers((1099, 1, "v1"), (1100, 1, "v1"), (1050, 2, "v2"), (1150, 2, "v2"), (1160, 3, "v1"))
    assert wrong_after_confirm(seen, [change(2, "v2"), change(3, "v1", 1155)]) == 0


@pytest.mark.parametrize(
    ("answer", "count"),
    [
        ((1101, 1, "v1"), 1),
        ((1101, 2, "v2"), 0),
        ((1250, 2, "v2"), 0),
        ((1301, 2, "v2"), 1),
        ((9000, 1, "v1"), 1),
        ((1301, 3, "v1"), 0),
        ((1050, 2, "v1"), 1),
    ],
)
def test_old_answers_after_a_confirmation_are_wrong(answer: tuple[int, int, str], count: int) -> None:
    """So are answers by another version than that of their revision, whenever they come."""
    seen = answers(answer, (1500, 3, "v1"), (1250, 2, "v2"))
    assert wrong_after_confirm(seen, [change(2, "v2"), change(3, "v1", 1200)]) == count


def run_of_all_scenarios() -> Run:
    """One change in each, 1 s apart; the last old answer comes 50 ms after each call."""
    changes = [
        change(number, f"v{number % 2 + 1}", 1000.0 * number, scenario.name)
        for number, scenario in enumerate(SCENARIOS, 1)
    ]
    old = [(1000 * number + 50, number - 1, f"v{(number - 1) % 2 + 1}") for number in range(1, 7)]
    return Run(changes, answers(*old), {1: 1040.0})


def test_document_has_every_figure_and_judges_it() -> None:
    """Percentiles and phases by scenario; one late scenario or one wrong answer misses its target."""
    run = run_of_all_scenarios()
    written = document(run)
    assert written["p50_ms"] == written["p99_ms"] == 50
    assert written["command_start_ms"] == 10
    assert written["confirm_p99_ms"] == 100
    assert written["rounds"][ALL_WELL.name]["phases_p50_ms"]["swapped"] == 40
    assert "swapped" not in written["rounds"][COMMAND.name]["phases_p50_ms"]
    assert all(target["reached"] for target in written["targets"].values())
    late = replace(
        run,
        answers=answers((9000, 2, "v1"), *((1000, revision, f"v{revision % 2 + 1}") for revision in (1, 3))),
    )
    judged = document(late)["targets"]
    assert not judged["command_p99_ms"]["reached"]
    assert judged["wrong_version_after_confirm"] == {"at_most": 0, "is": 1, "reached": False}
    assert judged["p99_ms"]["reached"]


def test_changes_of_no_scenario_are_judged_but_not_timed() -> None:
    """The warm-up is no figure, and its answers must be right all the same."""
    run = run_of_all_scenarios()
    before = change(0, "v1", 0, "warm_up")
    written = document(replace(run, changes=[before, *run.changes]))
    assert "warm_up" not in written["rounds"]
    assert sum(rounds["count"] for rounds in written["rounds"].values()) == len(SCENARIOS)


@pytest.mark.parametrize(
    ("all_well", "counts"), [(200, Counts(200, 40, 10)), (20, Counts(20, 4, 1)), (1, Counts(1, 1, 1))]
)
def test_counts_shrink_in_proportion(all_well: int, counts: Counts) -> None:
    """But each scenario is played once at least."""
    assert Counts.of(all_well) == counts


def test_accounts_that_do_not_add_up_are_refused() -> None:
    """A lost request, an error, and predictions that are not those of the version that is named."""
    recommender = Recommender.random(1)
    model = Model(route=None, revision=1, versions={"v1": recommender})  # type: ignore[arg-type]  # not used
    user_idx, context = features(7)
    user = recommender.user_factors[user_idx] + np.asarray(context, np.float32) @ recommender.context_weights
    best = np.argsort(user @ recommender.item_factors)[::-1][:TOP].tolist()
    good = Account(sent=10, answered=10, samples=[(107, "v1", best)])
    check(good, model, inputs=100)
    with pytest.raises(WrongAnswerError, match="1 of 10 requests have no answer"):
        check(replace(good, answered=9), model, inputs=100)
    with pytest.raises(WrongAnswerError, match="OVERLOADED"):
        check(replace(good, errors=[{"code": "OVERLOADED"}]), model, inputs=100)
    with pytest.raises(WrongAnswerError, match="request 107 is answered by v1"):
        check(replace(good, samples=[(107, "v1", best[::-1])]), model, inputs=100)
