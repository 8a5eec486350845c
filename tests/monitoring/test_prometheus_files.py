"""deploy/prometheus, checked by Prometheus's own tools, and each alert tested for when it fires."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.monitoring.binaries import AMTOOL, PROMTOOL, Program
from tests.monitoring.servers import FILES

RULE_TESTS = Path(__file__).with_name("alerts_test.yml")
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((FILES / "alerts.yml").read_text())["groups"] for rule in group["rules"]
]


@pytest.mark.parametrize(
    ("program", "arguments"),
    [
        (PROMTOOL, ["check", "config", FILES / "prometheus.yml"]),
        (PROMTOOL, ["check", "rules", "--lint-fatal", FILES / "alerts.yml"]),
        (PROMTOOL, ["test", "rules", RULE_TESTS]),
        (AMTOOL, ["check-config", FILES / "alertmanager.yml"]),
    ],
    ids=lambda value: " ".join(map(str, value[:2])) if isinstance(value, list) else "",
)
def test_its_tools_take_the_files(program: Program, arguments: list[str | Path]) -> None:
    ended = subprocess.run(
        [program.find(), *arguments], capture_output=True, text=True, check=False, timeout=100
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_every_alert_is_seen_firing_and_seen_silent() -> None:
    """In alerts_test.yml, which promtool runs."""
    cases = [
        case for test in yaml.safe_load(RULE_TESTS.read_text())["tests"] for case in test["alert_rule_test"]
    ]
    names = {rule["alert"] for rule in RULES if "alert" in rule}
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == names
    assert {case["alertname"] for case in cases if not case["exp_alerts"]} == names
