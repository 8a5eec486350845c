"""Every Python snippet of the pages runs: whole programs in the tests that are named here, parts in their module."""

import re
import textwrap
from importlib import import_module
from pathlib import Path

import pytest

from tests.support.docs.markdown import PAGES, ROOT

RUN_BY = {
    "README.md": "tests/integration/test_documented_first_prediction.py",
    "docs/clients.md": "tests/integration/test_documented_first_prediction.py",
    "docs/control-plane.md": "tests/integration/test_documented_first_prediction.py",
    "docs/tracing.md": "tests/integration/test_documented_tracing.py",
}
_CASE = """
class Framework:
    PLAIN_JSON = 1

def made(framework, server, PlainJsonBackend=str):
    match framework:
        {}

assert made(Framework.PLAIN_JSON, "server") == "server"
"""
# Each snippet of a page in its order: the module that it is added to, and what stands around it there.
ADDED_TO = {
    "docs/contributing/add-a-backend.md": [
        ("schemas.models", "class Framework(StrEnum):\n    {}"),
        ("streams", "{}"),
        ("workers.backends.factory", "class Framework:\n    PLAIN_JSON = 1\n{{{}}}"),
        ("workers.backends.factory", _CASE),
    ],
    "docs/contributing/add-a-metric.md": [("streams.prometheus.catalogue", "{}")],
    "docs/contributing/add-a-setting.md": [
        ("streams.config.process_settings", "class Settings(Section):\n    title = 't'\n    {}\nSettings()")
    ],
    "docs/contributing/add-a-verb.md": [
        ("streams", "{}"),
        ("streams.cli.main", "workers = models\n{{{}}}"),
    ],
    "docs/contributing/add-an-alert-rule.md": [
        ("schemas.alert_rules", "{}\nRequestRate()"),
        ("schemas.alert_rules", "RequestRate = Rule\nclass ModelRules(Rule):\n    {}\nModelRules()"),
        ("streams.monitoring.rules.traffic", "RequestRate = object\n{}"),
        ("streams.monitoring.rules.model_rules", "def evaluate(rules, series, request_rate, now):\n    {}"),
        ("streams.monitoring.alert_text", "{{{}}}"),
    ],
}


def snippets(page: Path) -> list[str]:
    """The Python blocks of a page, also those of its numbered steps."""
    found = re.findall(
        r"^( *)```python\n(.*?)^\1```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    return [textwrap.dedent(text) for _, text in found]


@pytest.mark.parametrize("page", [page for page in PAGES if snippets(page)], ids=lambda page: page.name)
def test_every_snippet_runs(page: Path) -> None:
    """A page with a new snippet needs an entry here: the test that runs it, or the module that it belongs to."""
    name = str(page.relative_to(ROOT))
    if name in RUN_BY:
        assert page.name in (ROOT / RUN_BY[name]).read_text(encoding="utf-8")
        return
    for text, (module, around) in zip(snippets(page), ADDED_TO[name], strict=True):
        indent = re.search(r"^ *(?=\{)", around, re.MULTILINE)
        inner = textwrap.indent(text.rstrip(), indent[0] if indent else "").lstrip()
        namespace = {**vars(import_module(module)), "__name__": module}
        exec(compile(around.format(inner), name, "exec"), namespace)
