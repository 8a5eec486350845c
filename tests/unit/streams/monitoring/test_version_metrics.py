"""streams/monitoring/version_metrics.py: rates over the time with weight, and differences of two versions."""

from datetime import UTC, datetime, timedelta

import pytest

from registry.assignment import Change
from schemas.models import Action, Route
from schemas.windows import Totals
from streams.monitoring.version_metrics import difference, difference_percent, figures, weight_seconds

BEGIN = datetime(2026, 11, 29, 12, 0, tzinfo=UTC)


def change(revision: int, minutes: float, weights: dict[str, float]) -> Change:
    """A change of the weights, so many minutes after `BEGIN`."""
    return Change(
        event_id=str(revision),
        revision=revision,
        action=Action.CANARY,
        actor="",
        reason="",
        before=None,
        after={"weights": weights},
        route=Route(salt="m", ranges=()),
        applied_at=BEGIN + timedelta(minutes=minutes),
    )


CHANGES = [
    change(1, -60, {}),
    change(2, -30, {"v1": 100.0}),
    change(3, 10, {"v1": 75.0, "v2": 25.0}),
    change(4, 20, {"v1": 100.0}),
    change(5, 40, {"v1": 90.0, "v2": 10.0}),
]


@pytest.mark.parametrize(
    ("since", "until", "expected"),
    [
        (0, 60, {"": 60, "v1": 60, "v2": 30}),
        (-45, 0, {"": 45, "v1": 30}),
        (12, 15, {"": 3, "v1": 3, "v2": 3}),
        (25, 30, {"": 5, "v1": 5}),
        (-120, -50, {"": 10}),
        (-120, -90, {}),
    ],
)
def test_the_time_with_weight_follows_from_the_changes(
    since: float, until: float, expected: dict[str, float]
) -> None:
    """Within the span; before its registration a model has no time at all."""
    found = weight_seconds(CHANGES, BEGIN + timedelta(minutes=since), BEGIN + timedelta(minutes=until))
    assert found == {version: 60.0 * minutes for version, minutes in expected.items()}


def test_a_version_without_requests_has_no_figures() -> None:
    """Nothing was measured; a version that never had weight has no rate either."""
    silent, counted = figures(Totals(), 60.0), figures(Totals(requests=6, ok=6), 0.0)
    assert (silent.requests, silent.requests_per_second, silent.p50_ms, silent.error_share) == (
        0,
        0.0,
        None,
        None,
    )
    assert (counted.requests_per_second, counted.error_share) == (None, 0.0)


def test_differences_are_absolute_and_in_per_cent() -> None:
    """Of what both have; nothing is a share of nothing."""
    first = figures(Totals(requests=200, ok=190, errors={"INTERNAL": 10}), 100.0)
    second = figures(Totals(requests=50, ok=50, load_failures=2), 50.0)
    found, percent = difference(first, second), difference_percent(first, second)
    assert (found["requests"], found["requests_per_second"], found["load_failures"]) == (-150, -1.0, 2)
    assert (percent["requests"], percent["requests_per_second"], percent["error_share"]) == (
        -75.0,
        -50.0,
        -100.0,
    )
    assert not {"p50_ms", "load_failures"} & percent.keys()
