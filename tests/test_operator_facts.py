"""Facts of operators stand in the table of `ops`; no other room lists operators by name."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest
from places import ROOT

from onnxprune.ops.spec import SPECS, load

MOST = 3
"""Operators that one collection outside `ops` may name: a case distinction, not a table."""
EXCUSED = {
    "decisions/elements/check.py": "the operators that TensorRT has sparse kernels for: a fact of TensorRT",
    "ir/canonical/sequences.py": "the operators that the rewrite itself computes, one method each",
    "train/gradient_support.py": "the operators that onnxruntime-training differentiates: measured on it",
}
"""Files that name more, each with the reason why that is no fact of the operators."""
OWN_KNOWLEDGE = ("ops", "certify")
"""The table itself, and the verifier, which trusts no other code."""


def operators() -> set[str]:
    load()
    return {name for _, name in SPECS} | {schema.name for schema in onnx.defs.get_all_schemas()}


def listed(tree: ast.AST, known: set[str]) -> Iterator[tuple[int, set[str]]]:
    """Yield the line and the operators of each collection of names; tables of functions are none."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Set | ast.Tuple | ast.List):
            elements = node.elts
        elif isinstance(node, ast.Dict) and all(_is_literal(value) for value in node.values):
            elements = [key for key in node.keys if key is not None]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            words = node.value.split()
            yield node.lineno, set(words) if known.issuperset(words) else set()
            continue
        else:
            continue
        names = {e.value for e in elements if isinstance(e, ast.Constant) and isinstance(e.value, str)}
        yield node.lineno, names & known


def _is_literal(value: ast.expr) -> bool:
    try:
        ast.literal_eval(value)
    except ValueError:
        return False
    return True


def tables(path: Path, known: set[str]) -> list[str]:
    found = listed(ast.parse(path.read_text(encoding="utf-8")), known)
    return [f"{path.name}:{line}: {', '.join(sorted(names))}" for line, names in found if len(names) > MOST]


def modules() -> Iterator[tuple[str, Path]]:
    package = ROOT / "onnxprune"
    for path in sorted(package.rglob("*.py")):
        room = path.relative_to(package)
        if room.parts[0] not in OWN_KNOWLEDGE:
            yield room.as_posix(), path


def test_no_room_keeps_a_table_of_operators() -> None:
    known = operators()
    found = {name: tables(path, known) for name, path in modules() if name not in EXCUSED}
    assert {name: lines for name, lines in found.items() if lines} == {}


def test_every_excuse_is_needed() -> None:
    known, paths = operators(), dict(modules())
    assert [name for name in EXCUSED if not tables(paths[name], known)] == []


@pytest.mark.parametrize(
    "code",
    [
        'X = {"Add", "Sub", "Mul", "Div"}',
        'X = ("Add", "Sub", "Mul", "Div")',
        'X = {"Add": 1, "Sub": (1, 2), "Mul": 0, "Div": 0}',
        'X = frozenset("Add Sub Mul Div".split())',
        'X = dict.fromkeys(["Add", "Sub", "Mul", "Div"], 1)',
    ],
)
def test_a_table_in_any_form_is_found(code: str) -> None:
    assert [names for _, names in listed(ast.parse(code), operators()) if len(names) > MOST]


@pytest.mark.parametrize(
    "code", ['X = {"Add", "Sub", "Mul"}', 'X = {"Add": f, "Sub": g, "Mul": h, "Div": k}']
)
def test_cases_and_tables_of_functions_are_no_facts(code: str) -> None:
    assert not [names for _, names in listed(ast.parse(code), operators()) if len(names) > MOST]
