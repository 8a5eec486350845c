"""streams/monitoring/alert_text.py: one sentence for each rule, in singular and plural, with codes and workers."""

from datetime import UTC, datetime
from typing import Any

import pytest

from schemas.alert_rules import GlobalRules, ModelRules
from schemas.events import Alert
from streams.monitoring.alert_text import format_alert


def alert(rule: str, value: float, **fields: Any) -> Alert:
    return Alert.model_validate(
        {
            "alert_id": "a",
            "model_name": "",
            "model_version": "",
            "rule": rule,
            "severity": "warning",
            "state": "firing",
            "value": value,
            "threshold": 0.2,
            "window_seconds": 60.0,
            "at": datetime(2026, 11, 29, tzinfo=UTC),
            **fields,
        }
    )


@pytest.mark.parametrize(
    ("rule", "value", "text"),
    [
        ("load_failure", 1, "could not be loaded once in the last 1 min"),
        ("load_failure", 3, "could not be loaded 3 times in the last 1 min"),
        ("breaker_opened", 1, "its circuit breaker opened once in the last 1 min"),
        ("stale_workers", 1, "1 worker sends no heartbeat or does not follow the registry"),
        ("stale_workers", 2, "2 workers send no heartbeat or do not follow the registry"),
        ("delta_loss", 1, "1 metrics delta was lost in the last 1 min"),
        ("delta_loss", 2000, "2,000 metrics deltas were lost in the last 1 min"),
    ],
)
def test_singular_and_plural(rule: str, value: float, text: str) -> None:
    assert format_alert(alert(rule, value)) == text


@pytest.mark.parametrize(
    ("fields", "causes"),
    [
        ({}, ""),
        ({"codes": {"INVALID_INPUT": 300}}, " (INVALID_INPUT 300)"),
        (
            {"codes": {"INTERNAL": 1200, "BACKEND_ERROR": 3}, "workers": ["a"]},
            " (INTERNAL 1,200, BACKEND_ERROR 3; worker a)",
        ),
        ({"workers": ["a", "b", "c"]}, " (workers a, b and c)"),
        ({"workers": ["a", "b", "c", "d"]}, " (workers a, b, c and others)"),
    ],
)
def test_the_commonest_codes_and_the_workers_are_named(fields: dict[str, Any], causes: str) -> None:
    fired = alert("error_rate", 0.5, model_name="fraud", model_version="v1", **fields)
    assert format_alert(fired) == (
        f"fraud v1: 50.0% of the requests of the last 1 min failed, threshold 20.0%{causes}"
    )


def test_every_rule_has_a_sentence() -> None:
    """The text of an unknown rule names the rule, that of a known one does not."""
    for rule in (*ModelRules.model_fields, *GlobalRules.model_fields):
        assert rule not in format_alert(alert(rule, 1.0))
    assert format_alert(alert("of_another_release", 0.5)) == "of_another_release is 0.5, threshold 0.2"
