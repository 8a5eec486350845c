"""Names and sizes of files. `test_architecture.py` holds what docstrings claim of imports."""

import ast
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("streams", "registry", "workers", "schemas", "deploy")
MAX_LINES = 300
REASON = f"over {MAX_LINES} lines because"
FILES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


def test_no_two_files_of_streams_have_one_name() -> None:
    """Whoever opens a file by its name finds the only one."""
    names = Counter(path.name for path in (ROOT / "streams").rglob("*.py"))
    assert [name for name, times in names.items() if times > 1 and name != "__init__.py"] == []


def test_a_long_module_says_why_it_is_long() -> None:
    """Its docstring gives the reason, in a sentence with these words."""
    long = [path for path in FILES if len(path.read_text(encoding="utf-8").splitlines()) > MAX_LINES]
    assert [module_name(path) for path in long if REASON not in " ".join(docstring(path).split())] == []
