"""Docstrings and names of tests open with a noun or an imperative, not with a relative word."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("onnxprune", "passes", "benchmarks", "docs", "examples", "models", "tests")
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
BANNED = {
    "What",
    "Whatever",
    "Whether",
    "How",
    "However",
    "Where",
    "Which",
    "Who",
    "Whoever",
    "From",
    "Does",
    "Those",
}


def openings(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the place and the first word of each docstring of a file, and of each name of a test.

    The docstrings of constants and attributes stand after their assignments.
    """
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for statement in node.body:
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                words = str(statement.value.value).split()
                yield f"{path.relative_to(ROOT)}:{statement.lineno}", words[0].rstrip(",:") if words else ""
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            yield f"{path.relative_to(ROOT)}:{node.lineno}", node.name.split("_")[1].capitalize()


def test_docstrings_and_names_of_tests_open_with_a_noun_or_an_imperative() -> None:
    found = [place for path in FILES for place in openings(path)]
    assert [(place, word) for place, word in found if word in BANNED] == []
