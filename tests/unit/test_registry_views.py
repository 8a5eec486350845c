"""How a share of traffic is drawn."""

import pytest

from streams.cli.registry_views import BAR_CELLS, bar


@pytest.mark.parametrize(
    ("percent", "drawn"),
    [(0, ""), (0.01, "▏"), (2.5, "█"), (3.75, "█▌"), (50, "█" * 20), (100, "█" * BAR_CELLS)],
)
def test_a_bar_is_exact_to_an_eighth_and_never_hides_traffic(percent: float, drawn: str) -> None:
    """The smallest canary is seen, and all traffic fills the width."""
    assert bar(percent) == drawn
