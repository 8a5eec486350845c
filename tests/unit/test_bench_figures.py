"""The benchmark's arithmetic, and what it takes for a wrong answer."""

import pytest

from schemas.models import BucketRange, Route
from tests.bench.answers import Model, Sheet, WrongAnswerError
from tests.bench.broker import Output
from tests.bench.competitors import BARE, Cache, Competitor
from tests.bench.figures import document
from tests.bench.latency import LatencyRound
from tests.bench.memory import Sample, evaluate, requests
from tests.bench.recommender import Recommender
from tests.bench.rounds import Round, rate
from tests.bench.workload import features, message, number_of, request_id

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


def test_requests_of_the_memory_run_repeat_each_input_once() -> None:
    """Half of the requests have an input of their own, the others each one of those again."""
    values = [request.value for request in requests(2000)]
    inputs = [value.partition(b'"user_id"')[2] for value in values]
    assert len(set(values)) == 2000
    assert sorted(inputs[:1000]) == sorted(inputs[1000:])
    assert len(set(inputs)) == 1000


@pytest.mark.parametrize(("last_bytes", "reached"), [(109, True), (111, False)])
def test_memory_is_flat_within_a_tenth(last_bytes: int, *, reached: bool) -> None:
    """Growth after the warm-up counts, growth before it does not."""
    sizes = [10, 50, *[100] * 7, last_bytes]
    samples = [Sample(float(number), number * 10, size) for number, size in enumerate(sizes)]
    assert evaluate(samples, count=90)["reached"] is reached


def test_records_are_distinct_and_of_the_promised_size() -> None:
    """Numbers come back from request ids, inputs do not repeat, and a record has about 200 bytes."""
    assert number_of(request_id(123_456)) == 123_456
    assert len({str(features(number)) for number in range(20_000)}) == 20_000
    assert 180 < len(message(999_999).value) < 220


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
