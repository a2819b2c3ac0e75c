"""Imports point downwards: a module imports from layers below it, or from its own package."""

from __future__ import annotations

import ast
import json
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LAYERS = [set(layer) for layer in json.loads((ROOT / "docs" / "layers.json").read_text("utf-8"))]
"""Rooms and modules, from the highest layer to the lowest."""
HEIGHT = {name: -k for k, layer in enumerate(LAYERS) for name in layer}
ROOMS = {name.rpartition(".")[0] for name in HEIGHT} - set(HEIGHT)
FILES = sorted([*(ROOT / "onnxprune").rglob("*.py"), *(ROOT / "passes").glob("*.py")])
OWNERS = {  # the only rooms that may import a library
    "onnxruntime": {"runtime", "train"},
    "onnx_graphsurgeon": {"train"},
}


def room(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return layer_of("passes" if parts[0] == "passes" else ".".join(parts[1:]))


def layer_of(name: str) -> str:
    """Return the longest prefix of a dotted name that has a layer, or the name of an empty room."""
    name = name.removesuffix(".__init__")
    while name not in HEIGHT and "." in name:
        name = name.rpartition(".")[0]
    return name


@cache
def imports(path: Path) -> frozenset[str]:
    """Return the full names that a file imports, those only for type checkers aside."""
    names: set[str] = set()
    pending: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
        pending.extend(ast.iter_child_nodes(node))
    return frozenset(names)


def test_every_module_has_a_layer() -> None:
    assert {room(path) for path in FILES} - {"__init__"} - ROOMS == set(HEIGHT)


def test_imports_point_downwards() -> None:
    upwards = []
    for path in FILES:
        here = room(path)
        if here == "__init__" or here in ROOMS:
            continue
        names = {name.removeprefix("onnxprune.") for name in imports(path) if name.startswith("onnxprune.")}
        needed = {layer_of(name) for name in names} & set(HEIGHT) - {here}
        upwards += [f"{path}: {name}" for name in needed if HEIGHT[name] >= HEIGHT[here]]
    assert not upwards


def test_libraries_have_one_owner() -> None:
    strangers = []
    for path in FILES:
        used = {name.split(".")[0] for name in imports(path)} & set(OWNERS)
        strangers += [f"{path}: {library}" for library in used if room(path) not in OWNERS[library]]
    assert not strangers
