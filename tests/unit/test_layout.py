"""Names and sizes of files. `test_architecture.py` holds claims about imports, import-linter the layers."""

import ast
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("streams", "registry", "workers", "schemas", "deploy")
MAX_LINES = 300
REASON = f"over {MAX_LINES} lines because"


def test_no_two_files_of_streams_have_one_name() -> None:
    """A file name in a traceback or an editor names one file."""
    names = Counter(path.name for path in (ROOT / "streams").rglob("*.py"))
    assert [name for name, times in names.items() if times > 1 and name != "__init__.py"] == []


def test_a_long_module_says_why_it_is_long() -> None:
    """The docstring gives the reason, in a sentence with the words of REASON."""
    unexplained = []
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            text = path.read_text(encoding="utf-8")
            docstring = " ".join((ast.get_docstring(ast.parse(text)) or "").split())
            if len(text.splitlines()) > MAX_LINES and REASON not in docstring:
                unexplained.append(path.relative_to(ROOT))
    assert unexplained == []
