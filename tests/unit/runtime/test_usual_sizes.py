"""Numbers for sizes that are not given: one table of them."""

from __future__ import annotations

import ast
from pathlib import Path

import onnxprune
from onnxprune.runtime import usual_sizes

ROOMS = ("analysis", "app", "evaluate", "runtime")
PLACE = "runtime/usual_sizes.py"
OTHERS = {
    (
        "analysis/sizes/delegation.py",
        "NUMBERS",
    ): "stand for symbols where another tool is asked",
    ("analysis/sizes/runnable_sizes.py", "LIMITS"): "bounds of a search, not sizes",
}
"""Tables of other numbers, by their place and name."""


def tables(path: Path) -> list[str]:
    """Names of tuples of several lengths that a module holds."""
    found = []
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple) and len(node.value.elts) > 3:
            numbers = [n.value for n in ast.walk(node.value) if isinstance(n, ast.Constant)]
            if all(type(n) is int for n in numbers) and numbers and max(numbers) >= 16:
                found += [t.id for t in node.targets if isinstance(t, ast.Name)]
    return found


def test_there_is_one_table_of_usual_sizes() -> None:
    root = Path(onnxprune.__file__).parent
    files = {f.relative_to(root).as_posix(): f for room in ROOMS for f in (root / room).rglob("*.py")}
    found = {(name, table) for name, file in files.items() for table in tables(file)}
    assert {key for key in found if key[0] == PLACE} >= {(PLACE, "LADDER"), (PLACE, "LENGTHS")}
    assert {key for key in found if key[0] != PLACE} == set(OTHERS)


def test_reference_sizes_tell_axes_apart() -> None:
    """Costs are stated at them: equal numbers would hide that two axes are not one."""
    sizes = usual_sizes.REFERENCE_BATCH, usual_sizes.REFERENCE_SEQUENCE, usual_sizes.REFERENCE_SOUND
    for picture in usual_sizes.REFERENCE_PICTURES:
        assert len({*sizes, *picture[:2]}) == 5
