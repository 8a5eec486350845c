"""PURE. The result of one rule for one version: what every rule returns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple


class AlertKey(NamedTuple):
    """Identifies an alert; at most one alert with a given key fires at a time.

    `model_name` is `GLOBAL` for a global rule. `model_version` is "" for requests that reached no version, and
    for a global rule.
    """

    model_name: str
    model_version: str
    rule: str


@dataclass(frozen=True, slots=True)
class Causes:
    """What a breached rule has counted: the commonest error codes, and the workers with the most of it."""

    codes: Mapping[str, int]
    workers: Sequence[str]


NO_CAUSES = Causes({}, ())


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A measured value against its threshold.

    `breached` and `cleared` are never both True. While both are False (the value is between the two
    thresholds) an alert keeps its state. The unit of `value`, `threshold` and `baseline` is the rule's:
    a share from 0 to 1, milliseconds, seconds or a count.
    """

    value: float
    threshold: float
    window_seconds: float
    breached: bool
    cleared: bool
    baseline: float | None = None
    causes: Causes = NO_CAUSES


RESOLVE_SHARE = 0.5
"""A rule clears below this share of the threshold at which it fires (hysteresis)."""


def halfway_to_baseline(factor: float) -> float:
    """The factor of the threshold that is halfway between the firing threshold and the baseline."""
    return (1.0 + factor) / 2.0
