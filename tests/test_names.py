"""Names: one class of the package has one name, and a module's name states its contents."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted([*(ROOT / "onnxprune").rglob("*.py"), *(ROOT / "passes").glob("*.py")])
OWN_FILES = [
    path for path in FILES if ROOT / "onnxprune" / "passes" not in path.parents
]  # a link to the passes

FAMILIES = (
    "ops/axes",
    "ops/sizes",
    "ops/symmetry",
    "train/pullbacks",
    "train/rewrites",
    "certify/rules",
    "ir/canonical",
)
"""Rooms with one file for each family of operators, named after the family."""
SIBLINGS = (
    {"app/cli", "passes"},  # a command and its pass
    {"decisions/channels", "decisions/elements"},  # the parts of a decision
    {"scoring/criteria", "train"},  # a criterion and the statistics that it needs
)
"""Further rooms whose files of one name belong together."""


def test_no_public_class_is_defined_twice() -> None:
    homes = defaultdict(list)
    for path in OWN_FILES:
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes[node.name].append(str(path.relative_to(ROOT)))
    assert {name: found for name, found in homes.items() if len(found) > 1} == {}


def test_a_module_name_stands_twice_only_where_the_rooms_make_it_plain() -> None:
    rooms = defaultdict(set)
    for path in OWN_FILES:
        if not path.stem.startswith("__"):
            rooms[path.stem].add(str(path.parent.relative_to(ROOT)).removeprefix("onnxprune/"))
    repeated = {name: found for name, found in rooms.items() if len(found) > 1}
    assert {n: f for n, f in repeated.items() if not f <= set(FAMILIES) and f not in SIBLINGS} == {}
