"""Copies of the request path with its tracing hooks and without: each `if` on a tracer is removed from the source."""

import ast
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

HOOKS = frozenset({"_tracer", "_on_failure"})
_HOOKED = (
    "workers.calls.dispatch",
    "streams.serving.served_version",
    "streams.serving.responder",
    "streams.serving.waiting_requests",
    "streams.serving.coalescing",
    "streams.serving.pipeline",
)


def copied(mark: str, *, hooks: bool) -> dict[str, ModuleType]:
    """A copy of the modules with hooks and of those between them; they import each other's copies.

    Each competitor has its own copy: shared code would stay warm in the processor's cache.
    """
    modules: dict[str, ModuleType] = {}
    for name in _HOOKED:
        module = _load(name, mark, hooks=hooks)
        for other in modules.values():
            for known, thing in vars(other).items():
                if known in vars(module) and isinstance(thing, type) and thing.__module__ == other.__name__:
                    setattr(module, known, thing)
        modules[name] = module
    return modules


def without_hooks(source: str) -> tuple[ast.Module, int]:
    """The syntax tree of a module without its hooks, and the number of hooks."""
    stripping = _Stripping()
    tree = stripping.visit(ast.parse(source))
    assert isinstance(tree, ast.Module)
    return ast.fix_missing_locations(tree), stripping.found


class _Stripping(ast.NodeTransformer):
    """Replaces `if self._tracer is None` and `is not None` by the branch without a tracer."""

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


def _load(name: str, mark: str, *, hooks: bool) -> ModuleType:
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    source = Path(spec.origin).read_text(encoding="utf-8")
    tree = ast.parse(source) if hooks else without_hooks(source)[0]
    module = ModuleType(f"{mark}: {name}")
    # Where dataclasses look for the names in their annotations.
    sys.modules[module.__name__] = module
    exec(compile(tree, spec.origin, "exec"), vars(module))
    return module
