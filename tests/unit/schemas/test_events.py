"""schemas/events.py: records that earlier versions wrote."""

import json
from typing import Any

import pytest

from schemas.events import Alert


def stored(model_name: str, **fields: Any) -> str:
    return json.dumps(
        {
            "alert_id": "1",
            "model_name": model_name,
            "model_version": "",
            "rule": "consumer_lag",
            "severity": "critical",
            "state": "firing",
            "value": 2.0,
            "threshold": 1.0,
            "window_seconds": 60.0,
            "at": "2026-01-02T03:04:05.678Z",
        }
        | fields
    )


@pytest.mark.parametrize(
    ("model_name", "fields", "scope"),
    [
        ("", {}, "global"),
        ("m", {}, "model"),
        ("", {"scope": "global"}, "global"),
        ("m", {"scope": "model"}, "model"),
    ],
)
def test_an_alert_without_a_scope_has_that_of_its_model_name(
    model_name: str, fields: dict[str, str], scope: str
) -> None:
    """An alert that fires during the upgrade is resolved with its own scope."""
    alert = Alert.model_validate_json(stored(model_name, **fields))
    assert alert.scope == scope
    assert Alert.model_validate_json(alert.model_dump_json()) == alert
