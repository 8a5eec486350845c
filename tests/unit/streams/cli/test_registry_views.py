"""How shares of traffic and their changes are told."""

from typing import Any

import pytest

from registry.assignment import differences
from streams.cli.registry_views import BAR_CELLS, bar


@pytest.mark.parametrize(
    ("percent", "drawn"),
    [(0, ""), (0.01, "▏"), (2.5, "█"), (3.75, "█▌"), (50, "█" * 20), (100, "█" * BAR_CELLS)],
)
def test_a_bar_is_exact_to_an_eighth_and_never_hides_traffic(percent: float, drawn: str) -> None:
    """The smallest canary is seen, and all traffic fills the width."""
    assert bar(percent) == drawn


def state(weights: dict[str, float], salt: str = "m", **statuses: str) -> dict[str, Any]:
    return {"weights": weights, "salt": salt, "statuses": statuses}


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        (None, state({}, v1="staging"), ["v1 staging"]),
        (
            state({"v1": 100.0}, v1="production", v2="staging"),
            state({"v1": 94.75, "v2": 5.25}, v1="production", v2="canary"),
            ["v1 100 → 94.75%", "v2 0 → 5.25%"],
        ),
        (
            state({"v1": 100.0}, v1="production", v2="staging"),
            state({"v1": 100.0}, v1="production", v2="archived"),
            ["v2 archived"],
        ),
        (
            state({"v1": 100.0}, v1="production"),
            state({"v1": 100.0}, "autumn", v1="production"),
            ["salt m → autumn"],
        ),
    ],
)
def test_a_change_is_told_by_what_differs(
    before: dict[str, Any] | None, after: dict[str, Any], told: list[str]
) -> None:
    """Weights where they moved, else the statuses, and a new salt."""
    assert differences(before, after) == told
