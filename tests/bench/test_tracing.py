"""The benchmark of tracing: what its figures are of, and its harness on rounds so few that they mean nothing."""

import ast
import inspect
import re

import pytest

from streams.serving import coalescing, pipeline, responder, served_version
from tests.bench.request_path_copies import copied, without_hooks
from tests.bench.tracing import Workload, measure, sink
from tests.bench.tracing_figures import COMPETITORS, OFF, WITHOUT, Measured, document
from workers.calls import dispatch


def test_a_ratio_is_one_within_a_round() -> None:
    """Slow rounds change nothing, since they are slow for all; and what is off is held to cost nothing."""
    costs = {WITHOUT: 10.0, OFF: 10.1} | dict.fromkeys(COMPETITORS[2:], 20.0)
    measured = [
        Measured("warm", name, number, cost if number % 2 else 100 * cost)
        for name, cost in costs.items()
        for number in range(20)
    ]
    written = document(measured)
    assert written["rounds"] == 20
    assert written["ratios"]["warm"][OFF] == pytest.approx(1.01)
    assert written["ratios"]["warm"]["on, all sampled"] == pytest.approx(2)
    assert written["targets"]["off_ratio_warm"]["reached"]
    slower = [
        one if one.competitor != OFF else Measured("warm", OFF, one.round, 1.02 * one.cpu_us_per_record)
        for one in measured
    ]
    assert not document(slower)["targets"]["off_ratio_warm"]["reached"]


def test_the_path_without_hooks_is_the_same_but_for_them() -> None:
    """Each is found, so that none is measured as if it were not there."""
    found = {}
    for module in (dispatch, served_version, responder, coalescing, pipeline):
        tree, found[module.__name__] = without_hooks(inspect.getsource(module))
        assert not re.search(r"(_tracer|_on_failure) is ", ast.unparse(tree))
    assert found == {
        "workers.calls.dispatch": 2,
        "streams.serving.served_version": 0,
        "streams.serving.responder": 2,
        "streams.serving.coalescing": 0,
        "streams.serving.pipeline": 1,
    }
    tree, _ = without_hooks(
        "if self._tracer is None:\n    a\nelse:\n    b\nif self._tracer is not None:\n    c\n"
    )
    assert [type(each).__name__ for each in tree.body] == ["Expr"]
    for hooks in (True, False):
        copy = copied("a copy", hooks=hooks)
        assert copy["streams.serving.pipeline"].Responder is copy["streams.serving.responder"].Responder
        assert copy["streams.serving.pipeline"].Responder is not responder.Responder
        assert copy["streams.serving.served_version"].Dispatcher is copy["workers.calls.dispatch"].Dispatcher


async def test_the_harness_measures_every_competitor() -> None:
    """Warm and cold, with spans that are exported."""
    workloads = [Workload("warm", 1, 3, warm=True), Workload("cold", 2, 1, warm=False)]
    with sink() as url:
        measured = await measure(url, repeats=2, workloads=workloads, report=print)
    assert len(measured) == 2 * 2 * len(COMPETITORS)
    assert all(one.cpu_us_per_record > 0 for one in measured)
    assert document(measured)["targets"].keys() == {"off_ratio_warm", "off_ratio_cold"}
