"""What the benchmark of model servers makes of its rounds, and which targets it finds missed."""

import pytest

from tests.bench.backends_figures import Hang, Latency, Row, Throughput, document
from tests.bench.backends_throughput import per_second


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


def test_rise_is_the_worse_of_both_latencies() -> None:
    """What waits in Kafka counts as much as what waits in the worker."""
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
    written = document([row("a"), row("b", **bad), row("c")])
    assert written[missed] == pytest.approx(value)
    assert [name for name, target in written["targets"].items() if not target["reached"]] == [missed]
    assert [one["name"] for one in written["rows"]] == ["a", "b", "c"]
    assert written["rows"][1][missed] == pytest.approx(value)


def test_what_was_not_measured_is_no_figure() -> None:
    """A server that did not run is a row with its reason, and one that takes single examples has no unbatched client."""
    silent = Row("a", "server 1", not_run="no Java")
    written = document([silent, row("b", unbatched=None)])
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
    assert document([silent])["targets"] == {}


def test_rate_is_from_answer_to_answer() -> None:
    """What came before the start and after the end does not count, nor the time in which nothing ended."""
    assert per_second([0.5, 1.5, 2.0, 2.5, 3.5, 9.0], start=1.0, end=3.0) == 1.5
    assert per_second([0.5, 3.5, 3.5, 9.0], start=1.0, end=3.0) == 0
    assert per_second([1.0, 2.0, 2.0, 3.0], start=1.0, end=3.0) == 1.5
