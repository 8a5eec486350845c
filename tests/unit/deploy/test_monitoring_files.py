"""deploy/prometheus and deploy/grafana: every metric that they query is in the catalogue, with those labels."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from streams.prometheus.catalogue import METRICS, sample_names

DEPLOY = Path(__file__).parents[3] / "deploy"
RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]
RECORDED = {rule["record"] for rule in RULES if "record" in rule}
METRIC_OF = {name: metric for metric in METRICS for name in sample_names(metric)}


def queries() -> Iterator[str]:
    for rule in RULES:
        yield rule["expr"]
    dashboard = json.loads((DEPLOY / "grafana" / "dashboards" / "headrace.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield target["expr"]
    for annotation in dashboard["annotations"]["list"]:
        yield annotation["expr"]
    for variable in dashboard["templating"]["list"]:
        yield variable["query"]["query"]


@pytest.mark.parametrize("query", sorted(set(queries())))
def test_a_query_names_known_metrics_and_labels(query: str) -> None:
    for recorded in RECORDED:
        query = query.replace(recorded, "recorded")
    for name, matchers in re.findall(r"(headrace_\w+)(?:\{(.*?)\})?", query):
        metric = METRIC_OF[name]
        known = {*metric.labels, "job", "instance", "process", "le"}
        assert set(re.findall(r'(\w+)(?:=|!=|=~|!~)"', matchers or "")) <= known, name


def test_every_query_is_looked_at() -> None:
    assert len(set(queries())) > 30
