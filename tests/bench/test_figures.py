"""The arithmetic of the benchmarks where an error would be believed, and what they take for a wrong answer."""

from dataclasses import replace

import numpy as np
import pytest

from schemas.models import BucketRange, Route
from tests.bench.answers import Model, Sheet, WrongAnswerError
from tests.bench.backends_figures import Hang, Latency, Row, Throughput
from tests.bench.backends_figures import document as backends_document
from tests.bench.backends_throughput import per_second
from tests.bench.broker import Output
from tests.bench.competitors import BARE, Cache, Competitor
from tests.bench.figures import document
from tests.bench.latency import LatencyRound
from tests.bench.memory import Sample, evaluate, requests
from tests.bench.overload_figures import WITH, WITHOUT, BacklogRun, LoadRun
from tests.bench.overload_figures import document as overload_document
from tests.bench.recommender import Recommender
from tests.bench.registry_figures import LIMITS, Registry, Watched
from tests.bench.registry_figures import document as registry_document
from tests.bench.rollback_figures import (
    ALL_WELL,
    COMMAND,
    SCENARIOS,
    Answers,
    Change,
    Run,
    last_old_ms,
    wrong_after_confirm,
)
from tests.bench.rollback_figures import document as rollback_document
from tests.bench.rollback_run import Counts, check
from tests.bench.rollback_traffic import Account
from tests.bench.rounds import Round, rate
from tests.bench.workload import TOP, features, message, number_of, request_id

MODEL = Model(
    Route(salt="m", ranges=(BucketRange(start=0, end=10_000, version="v1"),)),
    revision=1,
    versions={"v1": Recommender.random(1)},
)


def round_of(competitor: str, records_per_second: float) -> Round:
    return Round(competitor, 1, 1.0, records_per_second, 1.0, 0.0)


def latency_of(competitor: str, p50_ms: float, p99_ms: float) -> LatencyRound:
    return LatencyRound(competitor, 1, p50_ms, p99_ms, p99_ms, 0.0)


def echo(number: int, records: int = 2) -> Output:
    asked = message(number)
    return Output(0, asked.key, asked.value, (), records)


def sheet_of(records: int, cache: Cache = Cache.UNUSED) -> Sheet:
    return Sheet(Competitor("c", "c", (), records, cache=cache), MODEL)


def test_rate_leaves_out_the_start() -> None:
    """A slow first tenth does not lower the rate of what follows."""
    steady = [10_000 + number for number in range(900)]
    seconds, per_second = rate([*range(0, 1000, 10), *steady])
    assert seconds == pytest.approx(0.899)
    assert per_second == pytest.approx(1000)


def test_document_divides_medians_and_judges_targets() -> None:
    """Ratios are of medians; a target says what it is, what was wanted and whether it is reached."""
    rounds = [round_of("headrace-warm", rate) for rate in (90.0, 110.0, 500.0)]
    rounds += [round_of(BARE.name, rate) for rate in (100.0, 1.0, 120.0)]
    latencies = [latency_of("headrace-warm", 2.0, 9.1), latency_of(BARE.name, 1.0, 6.0)]
    written = document(rounds, latencies)
    assert written["ratio_vs_bare_aiokafka_warm"] == pytest.approx(1.1)
    assert written["targets"]["ratio_vs_bare_aiokafka_warm"]["reached"]
    assert written["targets"]["latency_p50_ms"] == {"at_most": 3.0, "is": 2.0, "reached": True}
    assert written["targets"]["latency_p99_ms"] == {"at_most": 9.0, "is": 9.1, "reached": False}
    assert "ratio_vs_faust_echo" not in written


def test_memory_run_sends_each_input_twice() -> None:
    """The requests of the second half have new ids and the inputs of the first half."""
    values = [request.value for request in requests(2000)]
    inputs = [value.partition(b'"user_id"')[2] for value in values]
    assert len(set(values)) == 2000
    assert sorted(inputs[:1000]) == sorted(inputs[1000:])
    assert len(set(inputs)) == 1000


def test_request_inputs_are_distinct_and_records_have_200_bytes() -> None:
    """A request id gives its number back; the size of a record is within a tenth of 200 bytes."""
    assert number_of(request_id(123_456)) == 123_456
    assert len({str(features(number)) for number in range(20_000)}) == 20_000
    assert 180 < len(message(999_999).value) < 220


@pytest.mark.parametrize(("last_bytes", "reached"), [(109, True), (111, False)])
def test_memory_is_flat_within_a_tenth(last_bytes: int, *, reached: bool) -> None:
    """Growth after the warm-up counts, growth before it does not."""
    sizes = [10, 50, *[100] * 7, last_bytes]
    samples = [Sample(float(number), number * 10, size) for number, size in enumerate(sizes)]
    assert evaluate(samples, count=90)["reached"] is reached


def test_sheet_accepts_every_answer_once() -> None:
    """All echoes, each once, and no answer of a probe is counted."""
    sheet = sheet_of(2)
    for number in (1, 0, 2):
        sheet.add(echo(number))
    sheet.check()
    assert len(sheet.appended_ms) == 2


def test_sheet_refuses_repeats_losses_and_changes() -> None:
    """An answer twice, an answer missing, an answer changed, and a warm cache that was cold."""
    sheet = sheet_of(2)
    sheet.add(echo(1))
    with pytest.raises(WrongAnswerError, match="answered twice"):
        sheet.add(echo(1))
    with pytest.raises(WrongAnswerError, match="1 of 2 requests have no answer"):
        sheet.check()
    with pytest.raises(WrongAnswerError, match="request 0 is answered with"):
        sheet.add(Output(0, message(0).key, message(0).value + b" ", (), 0))
    warm = sheet_of(1, Cache.WARM)
    warm.add(echo(0))
    with pytest.raises(WrongAnswerError, match="0 of 1 answers came from the cache"):
        warm.check()


def change(revision: int, version: str, called_ms: float = 1000.0, scenario: str = "all_well") -> Change:
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


def test_last_old_answer_is_0_without_an_older_revision() -> None:
    """With little traffic there may be no answer by an older revision."""
    assert last_old_ms(answers((1200, 2, "v2")), [change(2, "v2")]) == [0]


def test_old_answers_up_to_the_confirmation_are_accepted() -> None:
    """Also in the millisecond of the confirmation; an answer by a newer revision is accepted at any time."""
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
    """One change in each scenario, 1 s apart; the last old answer comes 50 ms after each call."""
    changes = [
        change(number, f"v{number % 2 + 1}", 1000.0 * number, scenario.name)
        for number, scenario in enumerate(SCENARIOS, 1)
    ]
    old = [(1000 * number + 50, number - 1, f"v{(number - 1) % 2 + 1}") for number in range(1, 7)]
    return Run(changes, answers(*old), {1: 1040.0})


def test_rollback_document_has_each_figure_and_its_target() -> None:
    """It has percentiles and phases by scenario; one late scenario or one wrong answer misses its target."""
    run = run_of_all_scenarios()
    written = rollback_document(run)
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
    targets = rollback_document(late)["targets"]
    assert not targets["command_p99_ms"]["reached"]
    assert targets["wrong_version_after_confirm"] == {"at_most": 0, "is": 1, "reached": False}
    assert targets["p99_ms"]["reached"]


def test_changes_outside_the_scenarios_are_checked_but_not_timed() -> None:
    """The warm-up adds no figure; a wrong answer to it still counts."""
    run = run_of_all_scenarios()
    warm_up = change(0, "v2", 0, "warm_up")
    written = rollback_document(replace(run, changes=[warm_up, *run.changes]))
    assert "warm_up" not in written["rounds"]
    assert sum(rounds["count"] for rounds in written["rounds"].values()) == len(SCENARIOS)
    assert written["wrong_version_after_confirm"] == 1


@pytest.mark.parametrize(
    ("all_well", "counts"), [(200, Counts(200, 40, 10)), (20, Counts(20, 4, 1)), (1, Counts(1, 1, 1))]
)
def test_counts_of_the_scenarios_keep_their_proportion(all_well: int, counts: Counts) -> None:
    """Each scenario has at least one change."""
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


def row(
    name: str,
    *,
    headrace: float = 950.0,
    batched: float = 1000.0,
    unbatched: float | None = 100.0,
    worker_ms: float = 3.0,
    hung_ms: float = 11.0,
    hung_whole_ms: float = 22.0,
) -> Row:
    """One round of each, with p99 of 10 ms and 20 ms end to end while all is well."""
    return Row(
        name,
        "server 1",
        throughput=[Throughput(unbatched, batched, headrace)],
        latency=[Latency(worker_ms, 2.0)],
        hang=[Hang(10.0, hung_ms, 20.0, hung_whole_ms)],
    )


def test_rounds_that_were_disturbed_do_not_count() -> None:
    """Medians of what each round says of both sides, and of each side's p99 by itself."""
    rounds = Row(
        "r",
        "server 1",
        throughput=[Throughput(100, 1000, 900), Throughput(100, 10, 900), Throughput(10, 1000, 90)],
        latency=[Latency(3, 2), Latency(90, 2), Latency(30.5, 29)],
        hang=[Hang(10, 12, 20, 20), Hang(10, 1000, 20, 20), Hang(1, 12, 20, 20)],
    )
    figures = rounds.figures()
    assert figures["ratio_vs_direct_batched"] == 0.9
    assert figures["ratio_vs_direct_unbatched"] == 9
    assert figures["added_latency_p50_ms"] == 1.5
    assert figures["other_version_p99_rise"] == pytest.approx(0.2)


def test_rise_is_the_larger_of_both_latencies() -> None:
    """The latency in the worker and the latency from end to end are compared separately."""
    assert row("r").figures()["other_version_p99_rise"] == pytest.approx(0.1)
    assert row("r", hung_whole_ms=40).figures()["other_version_p99_rise"] == pytest.approx(1.0)
    assert row("r", hung_ms=30).figures()["other_version_p99_rise"] == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("bad", "missed", "value"),
    [
        ({"headrace": 899}, "ratio_vs_direct_batched", 0.899),
        ({"unbatched": 400}, "ratio_vs_direct_unbatched", 2.375),
        ({"worker_ms": 3.6}, "added_latency_p50_ms", 1.6),
        ({"hung_ms": 12.1}, "other_version_p99_rise", 0.21),
    ],
)
def test_worst_server_decides(bad: dict[str, float], missed: str, value: float) -> None:
    """Its figure is the run's, and misses its target alone."""
    written = backends_document([row("a"), row("b", **bad), row("c")])
    assert written[missed] == pytest.approx(value)
    assert [name for name, target in written["targets"].items() if not target["reached"]] == [missed]
    assert [one["name"] for one in written["rows"]] == ["a", "b", "c"]
    assert written["rows"][1][missed] == pytest.approx(value)


def test_a_figure_without_rounds_is_left_out() -> None:
    """A server that did not run keeps its row and the reason; single examples give no unbatched figure."""
    not_run = Row("a", "server 1", not_run="no Java")
    written = backends_document([not_run, row("b", unbatched=None)])
    assert "ratio_vs_direct_unbatched" not in written
    assert "ratio_vs_direct_unbatched" not in written["targets"]
    assert written["ratio_vs_direct_batched"] == 0.95
    assert written["rows"][0] == {
        "name": "a",
        "server": "server 1",
        "not_run": "no Java",
        "batch": 0,
        "calls": 0,
        "throughput": [],
        "latency": [],
        "hang": [],
    }
    assert backends_document([not_run])["targets"] == {}


def test_the_rate_of_answers_is_from_answer_to_answer() -> None:
    """What came before the start and after the end does not count, nor the time in which nothing ended."""
    assert per_second([0.5, 1.5, 2.0, 2.5, 3.5, 9.0], start=1.0, end=3.0) == 1.5
    assert per_second([0.5, 3.5, 3.5, 9.0], start=1.0, end=3.0) == 0
    assert per_second([1.0, 2.0, 2.0, 3.0], start=1.0, end=3.0) == 1.5


REGISTRY = Registry(
    models=1000,
    versions=10,
    cold_seconds=[1.0, 2.0, 1.5],
    served_seconds=9.0,
    refresh_ms=[float(number) for number in range(101)],
    refreshes=[Watched(3.0, 1.0, 0.5), Watched(4.0, 5.0, 0.25), Watched(5.0, 2.0, 0.75)],
    loads=[Watched(10.0, 4.0, 0.5), Watched(20.0, 5.5, 0.5)],
    idle=[Watched(3.0, 0.5, 0.125), Watched(3.0, 0.25, 0.125)],
    routing_us={1: [2.0, 9.0, 2.5], 1000: [2.5, 2.125]},
)


@pytest.mark.parametrize(("among_many_us", "ratio", "reached"), [(2.5, 1.25, True), (2.75, 1.375, False)])
def test_routing_is_compared_by_its_quickest_repeats(
    among_many_us: float, ratio: float, *, reached: bool
) -> None:
    """A slow repeat is no difference."""
    written = registry_document(
        replace(REGISTRY, routing_us={1: [9.0, 2.0, 2.5], 1000: [9.0, among_many_us]})
    )
    assert written["routing_ratio"] == pytest.approx(ratio)
    assert written["targets"]["routing_ratio"]["reached"] is reached


def test_the_slowest_repeat_is_compared_with_the_limit() -> None:
    """The slowest load and the longest stall count; medians and the stall of an idle loop are given too."""
    written = registry_document(REGISTRY)
    assert (written["cold_load_seconds"], written["cold_load_median_seconds"]) == (2.0, 1.5)
    assert (written["refresh_p50_ms"], written["refresh_p99_ms"]) == (50.0, 99.0)
    assert (written["refresh_stall_ms"], written["refresh_stall_p50_ms"]) == (5.0, 2.0)
    assert written["refresh_stall_cpu_ms"] == 0.75
    assert (written["load_stall_ms"], written["idle_stall_ms"]) == (5.5, 0.5)
    reached = {name: target["reached"] for name, target in written["targets"].items()}
    assert reached == {
        "cold_load_seconds": True,
        "refresh_p99_ms": False,
        "refresh_stall_ms": True,
        "load_stall_ms": False,
        "routing_ratio": True,
    }
    assert reached.keys() == LIMITS.keys()


def load_run(p99_ms: float, recovery_seconds: float, *rss_bytes: int) -> LoadRun:
    return LoadRun([p99_ms] * 100, 30, 20, {}, recovery_seconds, rss_bytes)


def test_an_overload_compares_the_others_with_and_without_a_slow_version() -> None:
    """Latencies and rates as ratios; recovery and memory of each load by themselves."""
    loads = {WITHOUT: load_run(10, 2, 50, 70, 100, 100, 100), WITH: load_run(30, 11, 50, 100, 100, 100, 120)}
    backlogs = {WITHOUT: [BacklogRun(1000, 1), BacklogRun(1000, 2)], WITH: [BacklogRun(900, 1)]}
    written = overload_document(loads, backlogs, seconds=60)
    assert written["load"][WITH]["busy_refused_share"] == pytest.approx(2 / 3)
    assert {name: (target["is"], target["reached"]) for name, target in written["targets"].items()} == {
        "others_p99_ratio": (pytest.approx(3), False),
        "others_backlog_ratio": (pytest.approx(750 / 900), True),
        "recovery_seconds_without": (2, True),
        "recovery_seconds_with": (11, False),
        "rss_deviation_without": (0, True),
        "rss_deviation_with": (pytest.approx(0.2), False),
    }
