"""What docstrings claim about imports is a contract of import-linter, which `lint-imports` checks.

A module that says PURE, at the beginning of its docstring, is in the contract "pure modules do no I/O", and so is every
module that a package's docstring calls PURE. A package that says "Must never import: `NAME`, …" has a contract for each
name.
"""

import ast
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
CONTRACTS: list[dict[str, Any]] = CONFIG["contracts"]
PURE_CONTRACT = "pure modules do no I/O"


def _docstrings() -> Iterator[tuple[str, str]]:
    for package in CONFIG["root_packages"]:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            yield name, ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


DOCSTRINGS: Mapping[str, str] = dict(_docstrings())
NEVER = {
    name: claim
    for name, text in DOCSTRINGS.items()
    if (claim := re.search(r"[Mm]ust never import:([^.]*(?:\.\w[^.]*)*)", text))
}
PURE = next(contract for contract in CONTRACTS if contract["name"] == PURE_CONTRACT)["source_modules"]


def is_within(name: str, packages: Iterable[str]) -> bool:
    """True when a module is one of these or in one of these."""
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def children(name: str) -> list[str]:
    return [each for each in DOCSTRINGS if each.rpartition(".")[0] == name]


def forbids(contract: Mapping[str, Any], importer: str, imported: str) -> bool:
    """True when a contract forbids every import of one module by the other."""
    if contract["type"] == "forbidden":
        return is_within(importer, contract["source_modules"]) and is_within(
            imported, contract["forbidden_modules"]
        )
    for container in contract.get("containers", [""]):
        layers = [
            [f"{container}.{part.strip(' ()')}".lstrip(".") for part in layer.split("|")]
            for layer in contract["layers"]
        ]
        at, of = (
            next((number for number, layer in enumerate(layers) if is_within(name, layer)), None)
            for name in (importer, imported)
        )
        if (
            at is not None
            and of is not None
            and (of < at or (of == at and _apart(layers[at], importer, imported)))
        ):
            return True
    return False


def _apart(layer: list[str], importer: str, imported: str) -> bool:
    return not any(is_within(importer, [part]) and is_within(imported, [part]) for part in layer)


def is_forbidden(importer: str, imported: str) -> bool:
    """By one contract, or by one for each of its modules."""
    return any(forbids(contract, importer, imported) for contract in CONTRACTS) or (
        bool(children(imported)) and all(is_forbidden(importer, child) for child in children(imported))
    )


def test_who_says_pure_is_in_the_contract() -> None:
    missing = {
        name for name, text in DOCSTRINGS.items() if text.startswith("PURE") and not is_within(name, PURE)
    }
    assert missing == set()


def test_what_is_in_the_contract_says_pure() -> None:
    """The module or package that is listed, not each module of a package. The list is sorted, each name in it once."""
    assert sorted(set(PURE)) == PURE
    assert {name for name in PURE if not DOCSTRINGS.get(name, "").startswith("PURE")} == set()


def test_what_a_package_calls_pure_is_in_the_contract() -> None:
    called = {
        f"{package}.{name}"
        for package, text in DOCSTRINGS.items()
        if children(package)
        for sentence in re.findall(r"[^.]*\bare PURE\b|[^.]*\bis PURE\b", text)
        for name in re.findall(r"`(\w+)`", sentence)
    }
    assert called
    assert {name for name in called if not is_within(name, PURE)} == set()


@pytest.mark.parametrize("package", NEVER)
def test_what_a_package_must_never_import_is_forbidden(package: str) -> None:
    names = re.findall(r"`([\w.]+)`", NEVER[package][1])
    assert names
    assert [name for name in names if not is_forbidden(package, name)] == []


def test_every_claim_is_read() -> None:
    """No docstring says it in other words, which this test would pass over."""
    for name, text in DOCSTRINGS.items():
        assert ("never import" in text) == (name in NEVER), name
