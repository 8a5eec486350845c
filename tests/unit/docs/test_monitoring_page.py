"""docs/monitoring.md: its example is one, and it names every rule with its default."""

import re
from datetime import timedelta
from pathlib import Path

import pytest

from schemas.alert_rules import GlobalRules, LatencyStep, ModelRules
from schemas.events import Alert
from schemas.histogram import SCALE
from schemas.windows import RESOLUTIONS_SECONDS
from streams.cli.metrics import read_beginning
from streams.config.settings import Settings
from streams.monitoring.version_metrics import resolution_for
from workers.calls.health import BREAKER

TEXT = (Path(__file__).parents[3] / "docs" / "monitoring.md").read_text(encoding="utf-8")
PROSE = " ".join(TEXT.split())


def test_the_example_is_taken_as_it_stands() -> None:
    """Whoever copies it gets what it says."""
    (example,) = re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)
    rules = ModelRules.model_validate_json(example)
    assert rules.error_rate.objective_percent == 99.9
    assert rules.latency_baseline.steps == (
        LatencyStep(window_seconds=1, factor=2.5),
        LatencyStep(window_seconds=60, factor=1.5),
    )
    assert rules.latency_baseline.min_requests == ModelRules().latency_baseline.min_requests
    assert not rules.no_traffic.enabled


@pytest.mark.parametrize("rule", [*ModelRules.model_fields, *GlobalRules.model_fields])
def test_every_rule_has_its_row(rule: str) -> None:
    """With its severity where that is no warning."""
    (row,) = [line for line in TEXT.splitlines() if line.startswith(f"| `{rule}`")]
    defaults = getattr(ModelRules(), rule, None) or getattr(GlobalRules(), rule)
    assert (", critical |" in row) == (defaults.severity == "critical")
    assert all(row.split("|")[1:5])


def test_the_defaults_that_it_tells_are_those_in_force() -> None:
    """The figures of the table, as they follow from the rules."""
    errors = ModelRules().error_rate
    told = " ".join(f"{100 * burn.factor * errors.budget:.2g}%" for burn in errors.burns)
    assert told == "20% 7.2% 3%"
    for figure in (*told.split(), "99.5%"):
        assert figure in TEXT
    steps = ModelRules().latency_baseline.steps
    assert [(step.window_seconds, step.factor) for step in steps] == [(1, 3), (10, 2.5), (60, 2), (300, 2)]
    assert "3 times in 1 s, 2.5 times in 10 s, 2 times in 1 min or 5 min" in TEXT


def test_the_event_that_it_shows_is_one() -> None:
    """But for the id, which is cut."""
    (event,) = re.findall(r'```\n(\{"alert_id".*?\})\n```', TEXT, re.DOTALL)
    assert Alert.model_validate_json(event).rule == "latency_baseline"


def test_spans_are_read_and_kept_as_it_says() -> None:
    """Each row: the longest span, its windows, how long they are kept, and the setting for that."""
    rows = re.findall(
        r"^\| (\S+) \| (\d+) s \| (\d+) (hours|days) \| `HEADRACE_(\w+)` \|$", TEXT, re.MULTILINE
    )
    assert [int(resolution) for _, resolution, *_ in rows] == list(RESOLUTIONS_SECONDS)
    for longest, resolution, kept, _, setting in rows:
        assert getattr(Settings(), setting.lower()) == int(kept)
        span = timedelta(days=365) if longest == "longer" else read_beginning(longest)
        assert isinstance(span, timedelta)
        assert resolution_for(span) == int(resolution)
        assert longest == "longer" or resolution_for(span + timedelta(seconds=1)) > int(resolution)


def test_the_error_of_a_percentile_follows_from_the_buckets() -> None:
    """It is read at a bucket's geometric middle, half a bucket from either end."""
    assert "32 buckets from each value to its double" in PROSE
    assert 2**SCALE == 32
    assert 0.01 < 2 ** (0.5 / 2**SCALE) - 1 < 0.011
    assert "at most 1.1% off" in TEXT


def test_the_breaker_is_as_it_says() -> None:
    """After how many failures."""
    assert BREAKER.failures == 3
    assert "three calls in a row had failed" in TEXT
