"""streams/serving/request_metrics.py: deltas and lifetime counters say the same, however windows are cut."""

from collections import Counter
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from streams.serving.request_metrics import MetricsRegistry

START = datetime(2026, 1, 1, tzinfo=UTC)
VERSIONS = ["v1", "v2", ""]


@given(st.lists(st.sampled_from([*VERSIONS, None]), max_size=40))
def test_the_deltas_add_up_to_the_lifetime(steps: list[str | None]) -> None:
    """None closes a window; each other step counts a success, an error, a fallback and a call of a version."""
    metrics, now, deltas = MetricsRegistry("w", "boot", START), START, []
    for step in [*steps, None]:
        if step is None:
            now += timedelta(seconds=1)
            deltas += list(metrics.close_window(now))
            continue
        counters = metrics.counters_for("m", step)
        counters.ok += 1
        counters.failed("BACKEND_ERROR")
        counters.fell_back("INVALID_OUTPUT")
        counters.latency_ms.add(3.0)
        metrics.meter("m", step).called(5, 0.25)
    assert [delta.seq for delta in deltas] == list(range(len(deltas)))
    for version, times in Counter(step for step in steps if step is not None).items():
        own = [delta for delta in deltas if delta.model_version == version]
        total = metrics.lifetime_counters("m", version)
        assert sum(delta.ok for delta in own) == total.ok == times
        assert sum(delta.requests for delta in own) == 2 * times
        assert sum(delta.errors["BACKEND_ERROR"] for delta in own) == total.errors["BACKEND_ERROR"] == times
        assert total.fallbacks == {"INVALID_OUTPUT": times}
        assert sum(delta.latency_ms.count for delta in own) == total.latency_ms.count == times
        assert (total.calls, total.examples, total.backend_ms.sum_ms) == (times, 5 * times, 250.0 * times)
        assert total.counted_at is not None


def test_an_open_window_counts_already() -> None:
    """Reading it changes nothing: its delta is the same."""
    metrics = MetricsRegistry("w", "boot", START)
    metrics.counters_for("m", "v1").failed("INTERNAL")
    list(metrics.close_window(START))
    metrics.counters_for("m", "v1").failed("INTERNAL")
    assert [metrics.lifetime_counters("m", "v1").errors for _ in range(2)] == [{"INTERNAL": 2}] * 2
    (delta,) = metrics.close_window(START)
    assert delta.errors == {"INTERNAL": 1}
    metrics.forget("m", "v1")
    assert metrics.counted == []


def test_a_delta_has_the_revision_of_the_route_that_is_served() -> None:
    """A registry that was restored from a backup has an older one; requests in flight by a newer one change nothing."""
    revisions = {"m": 9}
    metrics = MetricsRegistry("w", "boot", START, lambda name: revisions.get(name, 0))
    metrics.counters_for("m", "v1").ok += 1
    metrics.counters_for("", "").failed("MALFORMED_RECORD")
    assert [delta.revision for delta in metrics.close_window(START)] == [9, 0]
    revisions["m"] = 4
    metrics.meter("m", "v1").breaker_opened()
    assert [delta.revision for delta in metrics.close_window(START)] == [4]


def test_requests_that_failed_for_their_input_are_counted_apart() -> None:
    """They are among the errors and fallbacks."""
    metrics = MetricsRegistry("w", "b", START)
    counters = metrics.counters_for("m", "v1")
    counters.failed("BACKEND_ERROR", of_input=True)
    counters.failed("BACKEND_ERROR")
    counters.fell_back("BACKEND_ERROR", of_input=True)
    assert metrics.lifetime_counters("m", "v1").input_faults == 2
    (delta,) = metrics.close_window(START)
    assert (delta.errors, delta.fallbacks, delta.input_faults) == (
        {"BACKEND_ERROR": 2},
        {"BACKEND_ERROR": 1},
        2,
    )
    assert metrics.lifetime_counters("m", "v1").input_faults == 2
