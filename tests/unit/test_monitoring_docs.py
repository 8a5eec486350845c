"""docs/monitoring.md: its example is one, and it names every rule with its default."""

import re
from pathlib import Path

import pytest

from schemas.alert_rules import InstallationRules, LatencyStep, ModelRules
from schemas.events import Alert

TEXT = (Path(__file__).parents[2] / "docs" / "monitoring.md").read_text(encoding="utf-8")


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


@pytest.mark.parametrize("rule", [*ModelRules.model_fields, *InstallationRules.model_fields])
def test_every_rule_has_its_row(rule: str) -> None:
    """With its severity where that is no warning."""
    (row,) = [line for line in TEXT.splitlines() if line.startswith(f"| `{rule}`")]
    defaults = getattr(ModelRules(), rule, None) or getattr(InstallationRules(), rule)
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
