"""Imports point downwards: what a module needs lies in a layer below it, or in its own package."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LAYERS = (
    {"__main__"},
    {"cli"},
    {"report"},
    {"runner"},
    {"recipe", "pipeline"},
    {"passes"},
    {"recovery", "tuning"},
    {"planning"},
    {"equivalence", "sensitivity"},
    {"removal", "importance"},
    {"evidence"},
    {"groups"},
    {"rules", "canonical", "output"},
    {"computed_weights", "routers", "sequences", "sharing", "states"},
    {"bodies"},
    {"inputs"},
    {"shapes"},
    {"layerwise", "runnable"},
    {"dims"},
    {"sizes"},
    {"graph", "metrics"},
    {"data", "datasets", "training"},
    {"places"},
    {"runtime", "plan", "callables", "console", "figures"},
    {"forms", "globs", "memory", "processors", "progress", "staging"},
    {"errors", "external", "lifeline", "locks", "wording"},
)
HEIGHT = {name: -k for k, layer in enumerate(LAYERS) for name in layer}
FILES = sorted([*(ROOT / "onnxprune").rglob("*.py"), *(ROOT / "passes").glob("*.py")])
OWNERS = {  # who alone may touch a library
    "onnxruntime": {"runtime", "training"},
    "onnx_graphsurgeon": {"training"},
}


def room(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return "passes" if parts[0] == "passes" else parts[1]


def imports(path: Path) -> Iterator[str]:
    """Yield the full names a file imports, those only for type checkers aside."""
    pending: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        pending.extend(ast.iter_child_nodes(node))


def test_every_module_has_a_layer() -> None:
    assert {room(path) for path in FILES} - {"__init__"} == set(HEIGHT)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_downwards(path: Path) -> None:
    here = room(path)
    if here == "__init__":
        return
    needed = {name.split(".")[1] for name in imports(path) if name.startswith("onnxprune.")} & set(HEIGHT)
    assert [name for name in needed if name != here and HEIGHT[name] >= HEIGHT[here]] == []


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_libraries_have_one_owner(path: Path) -> None:
    used = {name.split(".")[0] for name in imports(path)}
    assert [
        library for library, owners in OWNERS.items() if library in used and room(path) not in owners
    ] == []
