"""The request path without its hooks for tracing: the same source, with each `if` on a tracer taken out."""

import ast
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

HOOKS = frozenset({"_tracer", "_note_failure"})
_HOOKED = ("workers.dispatch", "streams.serving", "streams.answering", "streams.pipeline")


def untraced() -> dict[str, ModuleType]:
    """The modules on the request path that have hooks, each using the others as they are here."""
    modules: dict[str, ModuleType] = {}
    for name in _HOOKED:
        module = _load(name)
        for other in modules.values():
            for known, thing in vars(other).items():
                if known in vars(module) and isinstance(thing, type) and thing.__module__ == other.__name__:
                    setattr(module, known, thing)
        modules[name] = module
    return modules


def without_hooks(source: str) -> tuple[ast.Module, int]:
    """PURE. The syntax tree of a module without its hooks, and how many there were."""
    stripping = _Stripping()
    tree = stripping.visit(ast.parse(source))
    assert isinstance(tree, ast.Module)
    return ast.fix_missing_locations(tree), stripping.found


class _Stripping(ast.NodeTransformer):
    """Leaves of `if self._tracer is None` and `is not None` what is done without one."""

    def __init__(self) -> None:
        self.found = 0

    def visit_If(self, node: ast.If) -> Any:
        self.generic_visit(node)
        match node.test:
            case ast.Compare(
                left=ast.Attribute(attr=attr), ops=[operator], comparators=[ast.Constant(value=None)]
            ) if attr in HOOKS:
                self.found += 1
                return node.body if isinstance(operator, ast.Is) else node.orelse
        return node


def _load(name: str) -> ModuleType:
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    tree, _ = without_hooks(Path(spec.origin).read_text(encoding="utf-8"))
    module = ModuleType(f"untraced.{name}")
    # Where dataclasses look for the names in their annotations.
    sys.modules[module.__name__] = module
    exec(compile(tree, spec.origin, "exec"), vars(module))
    return module
