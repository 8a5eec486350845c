"""The queries of deploy/grafana's dashboard, as Grafana sends them."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[2] / "deploy" / "grafana"
DASHBOARD: dict[str, Any] = json.loads((FOLDER / "dashboards" / "headrace.json").read_text())


def queries(variables: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Each query with its variables replaced, and the title of its panel."""
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], _replaced(target["expr"], variables)
    for annotation in DASHBOARD["annotations"]["list"]:
        yield annotation["name"], _replaced(annotation["expr"], variables)


def variables_of_labels() -> Iterator[tuple[str, str, str]]:
    """The variables that take their values from a label: name, metric, label."""
    for variable in DASHBOARD["templating"]["list"]:
        found = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"])
        assert found is not None
        yield variable["name"], found[1], found[2]


def _replaced(query: str, variables: Mapping[str, str]) -> str:
    replaced = re.sub(r"\$(\w+)", lambda found: variables[found[1]], query)
    assert "$" not in replaced
    return replaced
