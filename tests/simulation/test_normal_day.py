"""A simulated ordinary day, second by second: changing load, noise, deployments, quiet nights.

Nobody needs to act on any of it, so no alert may fire.
"""

import numpy as np
import pytest

from tests.simulation.traffic import HOUR, SimulatedVersion, Simulation, always

DAY = 24 * HOUR
pytestmark = pytest.mark.timeout(900)


def daily(low: float, high: float) -> np.ndarray:
    """A value for each second of a day, lowest at four in the morning, with slow noise."""
    at = np.arange(DAY)
    wave = 0.5 - 0.5 * np.cos(2 * np.pi * (at - 4 * HOUR) / DAY)
    chance = np.random.default_rng(11)
    minutes = np.repeat(chance.normal(1.0, 0.08, DAY // 60), 60)
    return (low + (high - low) * wave) * np.clip(minutes, 0.5, 1.5)


def now_and_then(times: int, seconds: int, usual: float, unusual: float) -> np.ndarray:
    """An unusual value for some seconds, `times` times in the day."""
    figures = np.full(DAY, usual)
    for start in np.random.default_rng(times).integers(0, DAY - seconds, times):
        figures[start : start + seconds] = unusual
    return figures


def filling(start: int, share: float) -> np.ndarray:
    """The hit share of a cache that is empty at `start` and fills within some minutes."""
    at = np.arange(DAY) - start
    return np.where(at < 0, 0.0, share * (1.0 - np.exp(-np.maximum(at, 0) / 200.0)))


# The changes of the route: the second, the weights, and the production version.
DEPLOYMENTS: tuple[tuple[int, dict[str, float], str], ...] = (
    (0, {"v1": 1.0}, "v1"),
    (10 * HOUR, {"v1": 0.95, "v2": 0.05}, "v1"),
    (10 * HOUR + 1800, {"v1": 0.75, "v2": 0.25}, "v1"),
    (11 * HOUR, {"v2": 1.0}, "v2"),
    (15 * HOUR, {"v2": 0.9, "v3": 0.1}, "v2"),
    (15 * HOUR + 2400, {"v2": 1.0}, "v2"),
    (22 * HOUR, {"v2": 0.99, "v4": 0.01}, "v2"),
)


def route_at(second: int) -> tuple[dict[str, float], str]:
    weights, production = next(
        (weights, production) for start, weights, production in reversed(DEPLOYMENTS) if start <= second
    )
    return weights, production


def test_a_normal_day_of_a_busy_model_raises_no_alert() -> None:
    """500 requests/s at noon and 60 at night; stalls of a second, bursts of errors, canaries with empty caches."""
    load = daily(60, 500)
    # A quarter of a backend's time depends on the load.
    slow = (0.75 + 0.25 * load / 500.0) * now_and_then(60, 1, 1.0, 8.0)
    errors = now_and_then(30, 2, 0.0005, 0.1)
    # Each version's cache fills again whenever it gets other users.
    filled = {
        "v1": np.full(DAY, 0.6),
        "v2": np.where(
            np.arange(DAY) < 11 * HOUR, filling(10 * HOUR, 0.5), 0.03 + 0.95 * filling(11 * HOUR, 0.6)
        ),
        "v3": filling(15 * HOUR, 0.5),
        "v4": filling(22 * HOUR, 0.4),
    }
    weights = {version: np.zeros(DAY) for version in filled}
    for (start, shares, _), end in zip(
        DEPLOYMENTS, [*(each[0] for each in DEPLOYMENTS[1:]), DAY], strict=True
    ):
        for version, share in shares.items():
            weights[version][start:end] = share

    def planned(version: str) -> SimulatedVersion:
        return SimulatedVersion(
            "m",
            version,
            rate=lambda at: load[at] * weights[version][at],
            hit_share=lambda at: filled[version][at],
            error_share=lambda at: errors[at],
            slow=lambda at: slow[at],
        )

    simulation = Simulation([planned(version) for version in filled], lambda second: {"m": route_at(second)})
    assert simulation.run(DAY) == []


def test_a_normal_day_of_quiet_models_raises_no_alert() -> None:
    """A model without requests at night, one with a single nightly batch, and errors caused by the senders."""
    rate = np.maximum(daily(-1.5, 4.0), 0.0)
    batch = np.zeros(DAY)
    batch[2 * HOUR : 2 * HOUR + 1200] = 80.0
    single_errors = now_and_then(40, 1, 0.0, 1.0)
    versions = [
        SimulatedVersion("quiet", "v1", rate=lambda at: rate[at], error_share=lambda at: single_errors[at]),
        SimulatedVersion("batch", "v1", rate=lambda at: batch[at]),
        SimulatedVersion("rare", "v1", rate=always(1 / 60), error_share=always(0.004)),
    ]
    routes = {each.model_name: ({"v1": 1.0}, "v1") for each in versions}
    assert Simulation(versions, lambda _: routes).run(DAY) == []
