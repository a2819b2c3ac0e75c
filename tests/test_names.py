"""Names: one class of the package has one name."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted([*(ROOT / "onnxprune").rglob("*.py"), *(ROOT / "passes").glob("*.py")])


def test_no_public_class_is_defined_twice() -> None:
    homes = defaultdict(list)
    for path in FILES:
        if (ROOT / "onnxprune" / "passes") in path.parents:
            continue  # a link to the passes
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes[node.name].append(str(path.relative_to(ROOT)))
    assert {name: found for name, found in homes.items() if len(found) > 1} == {}
