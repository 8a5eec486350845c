"""Where code stands: names, sizes, and what docstrings claim of imports. import-linter holds the layers."""

import ast
import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

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


def imported(path: Path) -> Iterator[str]:
    """The modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def test_no_two_files_of_streams_have_one_name() -> None:
    """Whoever opens a file by its name finds the only one."""
    names = Counter(path.name for path in (ROOT / "streams").rglob("*.py"))
    assert [name for name, times in names.items() if times > 1 and name != "__init__.py"] == []


def test_a_long_module_says_why_it_is_long() -> None:
    """Its docstring gives the reason, in a sentence with these words."""
    long = [path for path in FILES if len(path.read_text(encoding="utf-8").splitlines()) > MAX_LINES]
    assert [module_name(path) for path in long if REASON not in " ".join(docstring(path).split())] == []


def test_every_pure_module_is_in_the_contract_of_pure_modules() -> None:
    """A docstring that begins with PURE is a claim; import-linter holds it only for the modules that it lists."""
    linter = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    (contract,) = (each for each in linter["contracts"] if each["name"] == "pure modules do no I/O")
    held = contract["source_modules"]
    assert [each for each in held if held.count(each) > 1] == []
    claims = [module_name(path) for path in FILES if docstring(path).startswith("PURE")]
    assert len(claims) > 40
    assert [name for name in claims if not any(is_within(name, package) for package in held)] == []


@pytest.mark.parametrize(
    "package", [path for path in FILES if "ever import: " in docstring(path)], ids=module_name
)
def test_a_package_imports_nothing_that_its_docstring_excludes(package: Path) -> None:
    """`Must never import: ...` in the docstring of a package is held for each of its files."""
    (claim,) = re.findall(r"ever import: ([^.]*(?:\.\w[^.]*)*)", docstring(package))
    excluded = re.findall(r"`([\w.]+)`", claim)
    assert excluded
    for path in package.parent.rglob("*.py"):
        for name in imported(path):
            assert not any(is_within(name, other) for other in excluded), f"{path} imports {name}"
