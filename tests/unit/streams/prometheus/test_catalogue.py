"""streams/prometheus/catalogue.py: names follow Prometheus's conventions, and no other module writes one."""

import re
from pathlib import Path

import pytest

import streams
from streams.prometheus import catalogue
from streams.prometheus.catalogue import METRICS, Metric, MetricType, Unit

PRODUCT = Path(streams.__file__).parents[1]
PACKAGES = ("streams", "registry", "workers", "schemas", "deploy")


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_a_name_says_type_and_unit(metric: Metric) -> None:
    """As promtool's lint and Prometheus's documentation ask for."""
    assert re.fullmatch(r"headrace(_[a-z]+)+", metric.name)
    assert metric.name.endswith("_total") == (metric.type is MetricType.COUNTER)
    for unit in (Unit.SECONDS, Unit.RATIO):
        assert metric.name.endswith(f"_{unit}") == (metric.unit is unit)
    assert metric.meaning.endswith(".")
    assert len(set(metric.labels)) == len(metric.labels)


def test_names_are_unique() -> None:
    assert len(METRICS) > 30
    assert len({metric.name for metric in METRICS}) == len(METRICS)


def test_no_other_module_names_a_metric() -> None:
    """A name that stands twice can be renamed once."""
    names = "|".join(metric.name for metric in METRICS)
    for package in PACKAGES:
        for path in (PRODUCT / package).rglob("*.py"):
            if path != Path(catalogue.__file__):
                assert re.findall(rf"\b(?:{names})\b", path.read_text(encoding="utf-8")) == [], path


def test_every_metric_is_shown_by_a_module() -> None:
    """The catalogue has no metric that no page shows."""
    constants = {name for name, value in vars(catalogue).items() if isinstance(value, Metric)}
    shown = {
        name
        for path in Path(catalogue.__file__).parent.glob("*.py")
        for name in re.findall(r"\bcatalogue\.([A-Z_]+)", path.read_text(encoding="utf-8"))
    }
    assert shown == constants
